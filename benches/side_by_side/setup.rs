//! pgward as it is configured here.

use std::fs;
use std::path::Path;

use pgward::local::Identity;
use rcgen::KeyPair;

use super::spawned::Spawned;
use super::stage::{PASSWORD, PLAIN, POOL, TENANTS};

/// The database without tenants.
pub const WITHOUT: &str = "without";

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Tenants `t0`, `t1` and so on at level `rows`, and `own` at level `schema`, on the server at one port.
pub struct Setup {
    server: u16,
    replica: Option<u16>,
    tenants: usize,
    /// Further keys of the table `listen`.
    listen: String,
    /// How tokens are signed, and how that is checked.
    signing: String,
    /// Further tables.
    more: String,
    folder: tempfile::TempDir,
}

impl Setup {
    pub fn new(server: u16, cores: Option<usize>) -> Self {
        Self {
            server,
            replica: None,
            tenants: TENANTS,
            listen: cores.map_or_else(String::new, |cores| format!(", cores = {cores}")),
            signing: format!(
                "algorithms = [\"HS256\"]\nsecret = \"{SECRET}\"\nsigning = {{ algorithm = \"HS256\", key = \"{SECRET}\" }}"
            ),
            more: String::new(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// With the database `app` for [`PLAIN`], who is no tenant.
    #[must_use]
    pub fn plain(mut self) -> Self {
        let users = self.file("users.txt", &format!("\"{PLAIN}\" \"{PASSWORD}\"\n"));
        self.more += &format!("[plain]\nusers_file = {users}\n[plain.databases.{WITHOUT}]\ncluster = \"main\"\n");
        self
    }

    /// With a tenant `audited`, whose statements are recorded.
    #[must_use]
    pub fn audited(mut self) -> Self {
        let log = self.folder.path().join("audit.jsonl");
        self.more += &format!(
            "[audit]\nfile = {log:?}\n[tenants.audited]\ncluster = \"main\"\ndatabase = \"app\"\nhome = \"lk\"\naudit = \"statements\"\n"
        );
        self
    }

    /// With a replica at this port, which what only reads goes to.
    #[must_use]
    pub fn replica(mut self, port: u16) -> Self {
        self.replica = Some(port);
        self
    }

    #[must_use]
    pub fn tenants(mut self, tenants: usize) -> Self {
        self.tenants = tenants;
        self
    }

    /// With tokens as identity providers sign them.
    #[must_use]
    pub fn es256(mut self) -> Self {
        let key = KeyPair::generate().unwrap();
        let public = self.file("public.pem", &key.public_key_pem());
        let private = self.file("private.pem", &key.serialize_pem());
        self.signing = format!(
            "algorithms = [\"ES256\"]\npublic_key_file = {public}\n\
             signing = {{ algorithm = \"ES256\", key = {{ file = {private} }} }}"
        );
        self
    }

    /// With TLS, and no client without it.
    #[must_use]
    pub fn tls(mut self, identity: &Identity) -> Self {
        let certificate = self.file("server.crt", &identity.certificate);
        let key = self.file("server.key", &identity.key);
        self.listen += &format!(", tls = {{ mode = \"require\", certificate = {certificate}, key = {key} }}");
        self
    }

    /// Its name as TOML has it.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        format!("{path:?}")
    }

    pub fn start(&self) -> Spawned {
        self.start_binary(Path::new(env!("CARGO_BIN_EXE_pgward")))
    }

    pub fn start_binary(&self, binary: &Path) -> Spawned {
        Spawned::start(binary, &[], &self.text())
    }

    pub fn text(&self) -> String {
        let Self { server, listen, signing, more, .. } = self;
        let replica = self.replica.map_or_else(String::new, |port| {
            format!(
                "[[clusters.main.servers]]\nname = \"main-2\"\nhost = \"127.0.0.1\"\nport = {port}\nregion = \"lk\"\nrole = \"replica\"\n"
            )
        });
        let tenants: String = (0..self.tenants)
            .map(|i| format!("[tenants.t{i}]\ncluster = \"main\"\ndatabase = \"app\"\nhome = \"lk\"\n"))
            .collect();
        format!(
            "master_key = \"{SECRET}\"
listen = {{ address = \"127.0.0.1:0\", drain_timeout = \"1s\"{listen} }}
context.keys.k1 = \"fedcba9876543210fedcba9876543210\"
pool.max_per_login = {POOL}
limits.max_clients = 20000

[[issuers]]
issuer = \"bench\"
audience = \"pgward\"
{signing}

[clusters.main]
logins = {{ app = \"pgward_app\" }}
tls.mode = \"off\"
[[clusters.main.servers]]
name = \"main-1\"
host = \"127.0.0.1\"
port = {server}
region = \"lk\"
{replica}
[tenants.own]
isolation = \"schema\"
cluster = \"main\"
database = \"app\"
home = \"lk\"
{tenants}{more}"
        )
    }
}
