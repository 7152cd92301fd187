//! A repository in an S3-compatible store.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use pgward::local::{Authority, free_port};
use pgward::sidecar::backup::Target;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::place::Place;
use crate::support::{one, until};

/// `scripts/drivers` installs it; the test run calls that first.
async fn serve(folder: &Path, port: u16) -> Child {
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".to_owned());
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let authority = Authority::new("s3 test authority").unwrap();
    let server = authority.server(&["localhost", "127.0.0.1"]).unwrap();
    for (name, text) in [("ca.crt", authority.pem()), ("s3.crt", server.certificate), ("s3.key", server.key)] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    std::fs::set_permissions(folder.join("ca.crt"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut command = Command::new(root.join(target).join("drivers/venv/bin/python"));
    command.arg(root.join("tests/backup/s3.py")).arg(port.to_string());
    command.arg(folder.join("s3.crt")).arg(folder.join("s3.key"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let child = command.spawn().expect("run scripts/drivers first");
    until("the S3 server", async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
    child
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_kept_in_a_bucket_and_comes_back_from_it() {
    let port = free_port().unwrap();
    let repository = format!(
        "[clusters.main.backup.options]\nio-timeout = \"10\"\n[clusters.main.repositories.bucket]\nregion = \"lk\"\ncipher = \"0123456789abcdef0123456789abcdef\"\n\
         s3 = {{ bucket = \"backups\", endpoint = \"localhost:{port}\", region = \"us-east-1\", path = \"/main\", \
         key = \"an-access-key\", secret = \"a-secret-key-that-nobody-sees\", path_style = true, ca = \"{{folder}}/ca.crt\" }}\n"
    );
    let place = Place::bare("s3", "", &repository).await;
    // Nothing listens there yet.
    let refused = place.refused(&["backup", "setup"]).await;
    assert!(refused.contains("pgbackrest stanza-create failed"), "{refused}");
    assert!(!refused.contains("a-secret-key"), "{refused}");
    let server = serve(&place.folder, port).await;
    place.done(&["backup", "setup"]).await;
    place.archived().await;
    place.done(&["backup", "run"]).await;
    place.postgres("app").await.batch_execute("delete from orders where tenant_id = 'globex'").await.unwrap();
    place.all_archived().await;
    let count = "select count(*)::text from orders where tenant_id = 'globex'";
    let copy = place.copy(Target::Consistent).await;
    assert_eq!(one(&copy.connect("app").await.unwrap(), count).await, "100");
    drop(copy);
    let copy = place.copy(Target::End).await;
    assert_eq!(one(&copy.connect("app").await.unwrap(), count).await, "0");
    // What is not there any more is said, and not taken for empty.
    drop(server);
    let refused = place.refused(&["backup", "list"]).await;
    assert!(refused.contains("repository bucket cannot be read"), "{refused}");
}
