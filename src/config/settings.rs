//! The validated configuration. Units are in the types, ranges were checked on the way in.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::backup::{Backup, ClusterBackup, Repository};
use super::catalogue::Catalogue;
use super::forwarding::{Forward, Forwarding};
use super::grants::Grant;
use super::maintenance::{Class, Maintenance, Upkeep};
use super::places::{Node, Patroni};
use crate::base::{
    Access, ClassName, ClusterName, GrantName, NodeName, Region, RepositoryName, Secret, ServerName, StoredPassword,
    TenantId,
};

#[derive(Debug, Clone)]
pub struct Settings {
    pub listen: Listen,
    pub http: Option<SocketAddr>,
    pub console: Console,
    pub log: Log,
    /// `None`: nothing is audited.
    pub audit: Option<Audit>,
    /// `None`: pgward makes no backups.
    pub backup: Option<Backup>,
    pub master_key: Option<Secret>,
    pub context: Context,
    pub issuers: Vec<Issuer>,
    pub session: SessionRules,
    pub pool: PoolRules,
    /// Where this pgward is: replicas that are there too are read from first, and tenants that may not be there are not
    /// served. `None`: that is not known.
    pub region: Option<Region>,
    /// This and other pgwards.
    pub nodes: BTreeMap<NodeName, Arc<Node>>,
    pub node: Option<NodeName>,
    /// `None`: nobody is forwarded.
    pub forwarding: Option<Forwarding>,
    pub clusters: BTreeMap<ClusterName, Arc<Cluster>>,
    pub maintenance: Maintenance,
    pub classes: BTreeMap<ClassName, Class>,
    pub tenants: Tenants,
    pub break_glass: Vec<BreakGlass>,
    /// What may leave its regions all the same.
    pub grants: BTreeMap<GrantName, Arc<Grant>>,
    /// Where more of them stand.
    pub tenants_file: Option<TenantsFile>,
    /// The same, instead of that file.
    pub catalogue: Option<Catalogue>,
    pub plain: Plain,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantsFile {
    pub path: PathBuf,
    /// What was read of it.
    pub version: FileVersion,
}

/// Tells whether a file has changed: time of modification, size and inode. `None`: there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileVersion(pub(super) Option<(i64, i64, u64, u64)>);

pub type Tenants = HashMap<TenantId, Arc<Tenant>>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub addresses: Vec<SocketAddr>,
    /// Threads that serve sessions. One per CPU unless said otherwise.
    pub cores: usize,
    pub max_clients: usize,
    /// From accept to the end of login; slower clients are dropped.
    pub startup_timeout: Duration,
    /// How long SIGTERM waits for transactions in flight.
    pub drain_timeout: Duration,
    pub tls: Option<ListenTls>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenTls {
    /// Refuse plaintext before any password is asked for.
    pub require: bool,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Clone)]
pub struct Console {
    /// The database name that reaches the console instead of a server.
    pub database: String,
    pub users: BTreeMap<String, Secret>,
    /// A token whose role is this one may use the console too.
    pub token_role: Option<Access>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub json: bool,
    pub level: String,
}

/// The audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    pub file: PathBuf,
    /// What lines are signed with; without it their hashes are plain.
    pub key: Option<Secret>,
    /// A file that would grow beyond this is put aside, in bytes.
    pub rotate_size: u64,
    /// Files that are kept besides the one in use; 0: all.
    pub keep: usize,
    pub on_failure: OnFailure,
    /// Events that may wait to be written.
    pub buffer: usize,
}

/// What becomes of the work while the audit log cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// What would have to be audited does not happen.
    #[default]
    Refuse,
    /// It goes on, and what was not written is counted.
    Drop,
}

/// The sealed context: keys by `kid`, and what else a backend is told about a session.
#[derive(Debug, Clone)]
pub struct Context {
    pub active: String,
    pub keys: BTreeMap<String, Secret>,
    /// Claims sealed into the context, for `pgward.claims()`.
    pub claims: Vec<String>,
    /// Plain settings for existing policies; forgeable by the session itself.
    pub settings: Vec<(String, SettingSource)>,
}

#[derive(Debug, Clone)]
pub enum SettingSource {
    Literal(String),
    /// The tenant's id.
    Tenant,
    /// The part of the token's claims that a JSON path names.
    Claim(ClaimPath),
}

/// A JSON path (RFC 9535) into a token's claims, kept with its spelling.
#[derive(Debug, Clone)]
pub struct ClaimPath {
    pub text: String,
    pub path: serde_json_path::JsonPath,
}

#[derive(Debug, Clone)]
pub struct Issuer {
    /// The `iss` claim, compared exactly.
    pub issuer: String,
    pub audiences: Vec<String>,
    pub algorithms: Vec<Algorithm>,
    pub keys: KeySource,
    pub leeway: Duration,
    pub tenant_claim: ClaimPath,
    pub role_claim: ClaimPath,
    pub region_claim: ClaimPath,
    /// Taken when the token names no role; without it such a token is refused.
    pub default_role: Option<Access>,
    pub signing: Option<Signing>,
}

#[derive(Debug, Clone)]
pub enum KeySource {
    /// One public key, for tokens with or without a `kid`.
    Pem(Vec<u8>),
    JwksFile(PathBuf),
    JwksUrl(JwksUrl),
    /// HS256 only.
    Secret(Secret),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksUrl {
    pub url: String,
    pub refresh: Duration,
    /// The least time between two fetches that unknown key ids cause.
    pub min_refresh: Duration,
    /// PEM file of the authority to trust besides the system's.
    pub ca: Option<PathBuf>,
}

/// For `pgward token`: development only.
#[derive(Debug, Clone)]
pub struct Signing {
    pub algorithm: Algorithm,
    pub kid: Option<String>,
    /// PEM of the private key, or the secret itself for HS256.
    pub key: Secret,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
    HS256,
}

impl Algorithm {
    pub const ALL: [(&'static str, Self); 10] = [
        ("RS256", Self::RS256),
        ("RS384", Self::RS384),
        ("RS512", Self::RS512),
        ("PS256", Self::PS256),
        ("PS384", Self::PS384),
        ("PS512", Self::PS512),
        ("ES256", Self::ES256),
        ("ES384", Self::ES384),
        ("EdDSA", Self::EdDSA),
        ("HS256", Self::HS256),
    ];
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRules {
    /// How long a session outlives its token.
    pub expiry_grace: Duration,
    /// Zero: no limit.
    pub idle_in_transaction_timeout: Duration,
    /// Statements that a session may have prepared by name.
    pub prepared_per_session: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRules {
    /// Backends of one login (role and database) on one server.
    pub max_per_login: usize,
    pub acquire_timeout: Duration,
    pub connect_timeout: Duration,
    pub idle_timeout: Duration,
    pub lifetime: Duration,
    /// Prepared statements kept on one backend.
    pub prepared_per_backend: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    pub name: ClusterName,
    pub servers: Vec<Arc<Server>>,
    /// Servers that Patroni has told of, besides those that are configured. Not in the file.
    pub members: Vec<Arc<Server>>,
    /// Where its backups are kept.
    pub repositories: BTreeMap<RepositoryName, Repository>,
    /// How they are made. `None`: there is nothing to log in by.
    pub backup: Option<ClusterBackup>,
    /// What is partitioned there by time.
    pub upkeep: Arc<Upkeep>,
    pub tls: ServerTls,
    /// Isolation level `rows`: which login serves which access.
    pub logins: BTreeMap<Access, Login>,
    /// What pgward itself logs in as, where tenants share a database: to listen for them, and to have their
    /// logins mended, and to be asked what they are.
    pub service: Option<Login>,
    /// How servers are asked what they are. `None`: they are what the configuration says.
    pub probe: Option<Probe>,
    /// Who leads, and which servers there are, as Patroni knows it.
    pub patroni: Option<Arc<Patroni>>,
    /// How long a request waits for a primary while there is none.
    pub failover_timeout: Duration,
    /// How long it takes until a replica that has come back gets its whole share of reads.
    pub slow_start: Duration,
}

impl Cluster {
    /// Those that are configured and those that were found.
    pub fn all_servers(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.servers.iter().chain(&self.members)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub database: String,
    pub rules: ProbeRules,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeRules {
    pub interval: Duration,
    /// How long one answer may take.
    pub timeout: Duration,
    /// How long a server may be silent before it counts as down.
    pub down_after: Duration,
    /// Answers in a row that bring it back.
    pub up_after: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Server {
    pub name: ServerName,
    pub host: String,
    pub port: u16,
    pub region: Region,
    pub role: ServerRole,
    pub max_backends: usize,
    /// Its share of reads, beside those of other replicas. 0: nobody reads there.
    pub weight: usize,
    /// Where its data is on its machine.
    pub data_directory: Option<PathBuf>,
}

impl Server {
    /// Whether it is the same one, whatever else was changed about it.
    pub fn same_place(&self, other: &Self) -> bool {
        (&self.name, &self.host, self.port) == (&other.name, &other.host, other.port)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServerRole {
    Primary,
    Replica,
}

impl ServerRole {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    pub mode: ServerTlsMode,
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerTlsMode {
    Off,
    /// Encrypted, the certificate not verified.
    Require,
    /// Encrypted, the certificate's chain and host name verified.
    VerifyFull,
}

/// A role that backends log in as.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Login {
    pub role: String,
    pub password: LoginPassword,
    /// Instead of the tenant's.
    pub mode: Option<PoolMode>,
    pub route: Option<ReadRoute>,
    /// What `ALTER ROLE ... SET` gives it.
    pub settings: BTreeMap<String, String>,
    /// It may be one that could get around isolation.
    pub allow_unsafe: bool,
}

/// How long a session keeps a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PoolMode {
    /// To the end of its transaction.
    #[default]
    Transaction,
    /// To its own end.
    Session,
}

impl PoolMode {
    pub const ALL: [(&str, Self); 2] = [("transaction", Self::Transaction), ("session", Self::Session)];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Session => "session",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LoginPassword {
    /// From the master key, the cluster, the role and this epoch.
    Derived {
        epoch: u32,
    },
    Fixed(Secret),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    Rows,
    Schema,
    Database,
    Cluster,
}

impl Isolation {
    /// Whether other tenants' sessions may be in the same database.
    pub const fn shares_database(self) -> bool {
        matches!(self, Self::Rows | Self::Schema)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Schema => "schema",
            Self::Database => "database",
            Self::Cluster => "cluster",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    pub id: TenantId,
    pub isolation: Isolation,
    pub cluster: ClusterName,
    pub database: String,
    pub search_path: Vec<String>,
    pub home: Region,
    pub regions: Arc<[Region]>,
    pub forward: Forward,
    pub roles: Roles,
    pub mode: PoolMode,
    pub reads: Arc<ReadRules>,
    pub limits: TenantLimits,
    /// How long its rows are kept. `None`: as long as the table says.
    pub class: Option<ClassName>,
    /// Whether its statements are audited.
    pub audit_statements: bool,
    /// Nobody may log in, and nobody may stay.
    pub suspended: bool,
    /// Why nothing of it may be deleted, backups included.
    pub legal_hold: Option<String>,
}

impl Tenant {
    /// What an access of it logs in as.
    pub fn login<'a>(&'a self, access: &Access, cluster: &'a Cluster) -> Option<&'a Login> {
        match &self.roles {
            Roles::Own(logins) => logins.get(access),
            Roles::Shared(named) if named.is_empty() || named.contains(access) => cluster.logins.get(access),
            Roles::Shared(_) => None,
        }
    }

    /// Where the reads of those go who come in by this login, if they say nothing else.
    pub fn route(&self, login: &Login) -> ReadRoute {
        login.route.unwrap_or(self.reads.route)
    }
}

/// Which login role serves which access of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roles {
    /// Level `rows`: the cluster's logins of these names, all of them when empty.
    Shared(Vec<Access>),
    /// The other levels: logins of the tenant's own.
    Own(BTreeMap<Access, Login>),
}

/// Where reads go, and what they must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRules {
    pub route: ReadRoute,
    pub consistency: Consistency,
    /// At [`Consistency::Bounded`].
    pub max_staleness: Duration,
    /// How long a read waits for a replica to come far enough.
    pub wait: Duration,
    /// A replica that is further behind serves nobody.
    pub max_lag: Duration,
    pub max_lag_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadRoute {
    /// What only reads goes to replicas, where they show what they must.
    Auto,
    Primary,
    /// Everything goes to replicas.
    Replica,
}

impl ReadRoute {
    pub const ALL: [(&'static str, Self); 3] =
        [("auto", Self::Auto), ("primary", Self::Primary), ("replica", Self::Replica)];
}

/// What a read is sure to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// What its session wrote or has seen before.
    Session,
    /// What anybody wrote before it was asked for.
    Tenant,
    /// What is older than a given time.
    Bounded,
    Eventual,
}

impl Consistency {
    pub const ALL: [(&'static str, Self); 4] = [
        ("session", Self::Session),
        ("tenant", Self::Tenant),
        ("bounded", Self::Bounded),
        ("eventual", Self::Eventual),
    ];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantLimits {
    pub max_clients: usize,
    pub max_leases: usize,
    pub max_pinned: usize,
}

/// Access to other tenants in an emergency, for one principal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakGlass {
    /// The claims `iss` and `sub` of its token.
    pub issuer: String,
    pub subject: String,
    /// `None`: all.
    pub tenants: Option<Vec<TenantId>>,
    /// What it may do there.
    pub role: Access,
    /// How long one session lasts.
    pub max_duration: Duration,
    /// From when on it is over, in seconds since 1970.
    pub until: Option<u64>,
}

/// Databases without tenants, whose clients log in with user and password.
#[derive(Debug, Clone, Default)]
pub struct Plain {
    pub users: BTreeMap<String, StoredPassword>,
    /// For users that the file does not have.
    pub lookup: Option<Lookup>,
    /// Roles that may be used although they are superusers.
    pub superusers: Vec<String>,
    /// By the name that clients give.
    pub databases: BTreeMap<String, Arc<PlainDatabase>>,
    /// For every other name.
    pub any: Option<Arc<PlainDatabase>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainDatabase {
    pub cluster: ClusterName,
    /// Its name on the server, if it is not the one the client gives.
    pub database: Option<String>,
    /// What backends log in as, if it is not the client's own user.
    pub login: Option<Login>,
    pub mode: PoolMode,
    pub reads: Arc<ReadRules>,
    pub limits: TenantLimits,
    /// Whether its statements are audited.
    pub audit_statements: bool,
}

/// Where passwords are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    pub cluster: ClusterName,
    pub database: String,
    pub login: Login,
    /// Gives name and password for the name in `$1`.
    pub query: String,
    /// How long an answer is good for.
    pub cache: Duration,
}
