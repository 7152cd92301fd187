//! What no compiler sees: scripts, the Makefile and the container files name things that exist.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgward::config;

fn root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(root(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn scripts_can_be_run_and_parse() {
    let scripts = fs::read_dir(root("scripts")).unwrap().map(|entry| entry.unwrap().path());
    for script in scripts.chain([root(".ci/run")]).filter(|path| path.is_file()) {
        let name = script.display();
        let bash = fs::read_to_string(&script).is_ok_and(|text| text.starts_with("#!/bin/bash\n"));
        if bash {
            assert!(Command::new("bash").arg("-n").arg(&script).status().unwrap().success(), "{name} does not parse");
        }
        assert!(fs::metadata(&script).unwrap().permissions().mode() & 0o111 != 0, "{name} is not executable");
    }
    assert!(text(".ci/run").contains("make test"));
}

#[test]
fn make_has_its_targets_and_explains_them() {
    let output = Command::new("make").arg("-C").arg(root("")).arg("-s").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    for target in ["demo", "test", "fuzz", "bench", "soak", "regress", "matrix", "hostile", "fmt", "clean"] {
        assert!(said.contains(&format!("make {target}")), "make does not explain {target}:\n{said}");
    }
}

#[test]
fn the_image_copies_what_exists_and_does_not_run_as_root() {
    let (dockerfile, ignored) = (text("docker/Dockerfile"), text(".dockerignore"));
    for line in dockerfile.lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from=")) {
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        for source in &words[..words.len() - 1] {
            assert!(root(source).exists(), "{line}: there is no {source}");
            assert!(ignored.lines().any(|kept| kept == format!("!{source}")), "{line}: .dockerignore hides {source}");
        }
    }
    let last = dockerfile.rsplit("FROM ").next().unwrap();
    let user = last.lines().find_map(|line| line.strip_prefix("USER ")).unwrap();
    assert!(!user.starts_with("root") && !user.starts_with('0'), "the image runs as {user}");
    assert!(last.contains("HEALTHCHECK"), "the image has no health check");
    // Whatever Cargo.toml asks for must be in the build's context, but for examples: cargo looks for their
    // files no earlier than it builds them.
    let manifest = text("Cargo.toml");
    let sections = manifest.split("\n[").filter(|section| !section.starts_with("[example]]"));
    let lines = sections.flat_map(str::lines);
    for line in lines.filter(|line| line.starts_with("build =") || line.starts_with("path =")) {
        let path = line.split('"').nth(1).unwrap();
        assert!(dockerfile.contains(&format!("COPY {}", path.split('/').next().unwrap())), "{path} is not copied");
    }
}

#[test]
fn compose_mounts_what_exists_and_its_configuration_is_good_with_the_keys_that_the_script_makes() {
    let compose = text("docker/compose.yaml");
    for mount in compose.lines().filter_map(|line| line.trim().strip_prefix("- ./")) {
        let source = mount.split(':').next().unwrap();
        assert!(source == "secrets" || root("docker").join(source).exists(), "docker/{source} does not exist");
    }
    let folder = tempfile::tempdir().unwrap();
    let secrets = folder.path().join("secrets");
    let made = Command::new(root("scripts/keys")).arg(&secrets).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let key = fs::read(secrets.join("master.key")).unwrap();
    fs::copy(root("conf/tenants.toml"), folder.path().join("tenants.toml")).unwrap();
    for name in ["docker/pgward.toml", "conf/pgward.toml", "conf/minimal.toml", "conf/plain-pool.toml"] {
        if let Err(problems) = config::parse(&text(name), folder.path()) {
            panic!("{name}: {problems:?}");
        }
    }
    assert!(Command::new(root("scripts/keys")).arg(&secrets).output().unwrap().status.success());
    assert_eq!(fs::read(secrets.join("master.key")).unwrap(), key, "keys were replaced");
}
