//! `lunar pki` as an operator meets it, and every other command over TLS.

#![allow(missing_docs, reason = "test names are claims")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use lunar_identity::{ServerTls, TlsFiles};
use lunar_metadata::seams::{SystemClock, SystemIds};
use lunar_metadata::server::{Handlers, serve_tls};
use lunar_metadata::service::{Seams, Service, Settings};
use lunar_metadata::store::RedbStore;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::Notify;

const CLUSTER: &str = "11111111-2222-4333-8444-555555555555";

/// A folder in which `lunar` runs.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn lunar(&self, line: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lunar"));
        let variables = std::env::vars_os()
            .filter(|(name, _)| name.to_str().is_some_and(|name| name.starts_with("LUNAR_")));
        for (name, _) in variables {
            command.env_remove(name);
        }
        let command = command.args(line.split_whitespace()).current_dir(self.path());
        command.output().expect("it runs")
    }

    /// Runs a command that has to succeed.
    fn done(&self, line: &str) -> String {
        let output = self.lunar(line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{line}: {said}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs a command that has to fail so, and gives what it said.
    fn refused(&self, line: &str, code: i32) -> String {
        let output = self.lunar(line);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        said
    }

    fn shown(&self, file: &str) -> Value {
        let json: Value =
            serde_json::from_str(&self.done(&format!("pki show {file} -o json"))).expect("JSON");
        json["certificates"][0].clone()
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.path().join(file)).expect("read")
    }
}

#[test]
fn an_authority_issues_shows_and_rotates_and_overwrites_nothing() {
    let folder = Folder::new();
    let said = folder.refused("pki issue --role node --name n1 --dir pki", 1);
    assert!(said.contains("pki init"), "{said}");
    folder.done(&format!("pki init --cluster {CLUSTER} --dir pki"));
    let said = folder.refused(&format!("pki init --cluster {CLUSTER} --dir pki"), 4);
    assert!(said.contains("ca.crt' exists"), "{said}");
    let told = folder.done("pki issue --role node --name n1 --ip 192.0.2.1 --days 10 --dir pki");
    assert!(told.contains("n1") && told.contains(CLUSTER) && !told.contains("PRIVATE"), "{told}");
    for key in ["pki/ca.key", "pki/n1.key"] {
        let mode = std::fs::metadata(folder.path().join(key)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let first = folder.shown("pki/n1.crt");
    assert_eq!((&first["role"], &first["name"]), (&"node".into(), &"n1".into()));
    assert_eq!(first["days_left"], 10);
    assert_eq!(folder.shown("pki/ca.crt")["cluster_id"], CLUSTER);
    folder.refused("pki issue --role admin --name n1 --dir pki", 4);
    folder.refused("pki issue --role admin --name ca --force --dir pki", 4);
    // Fewer than 30 days are left; the holder and the days stay.
    folder.done("pki issue --role admin --name root --days 90 --dir pki");
    let (old, root) = (folder.read("pki/n1.key"), folder.read("pki/root.crt"));
    let told = folder.done("pki rotate --dir pki");
    assert!(told.contains("n1") && !told.contains("root"), "{told}");
    let second = folder.shown("pki/n1.crt");
    assert_eq!((&second["role"], &second["name"]), (&first["role"], &first["name"]));
    assert_eq!(second["days_left"], 10);
    assert_ne!(second["serial"], first["serial"]);
    assert_ne!(folder.read("pki/n1.key"), old, "a new key");
    assert_eq!(folder.read("pki/root.crt"), root);
    folder.done("pki rotate root --now --dir pki");
    assert_ne!(folder.read("pki/root.crt"), root);
}

/// The service of the cluster behind TLS; the certificates are in `pki`.
fn serve(folder: &Folder, runtime: &Runtime) -> String {
    let (address, listener) = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        (listener.local_addr().expect("bound"), listener)
    });
    let service = runtime.block_on(async {
        let seams = Seams { clock: Arc::new(SystemClock::start()), ids: Arc::new(SystemIds) };
        Service::open(RedbStore::in_memory(), seams, Settings::default()).await.expect("opens")
    });
    let cluster = service.cluster().id;
    folder.done(&format!("pki init --cluster {cluster} --dir pki"));
    for (role, name) in [("metadata", "m1"), ("admin", "root"), ("node", "n1")] {
        folder.done(&format!("pki issue --role {role} --name {name} --dir pki"));
    }
    let at = |file: &str| folder.path().join("pki").join(file);
    let files = TlsFiles { ca: at("ca.crt"), cert: at("m1.crt"), key: at("m1.key") };
    let tls = Arc::new(ServerTls::load(files, cluster).expect("usable"));
    let handlers = Handlers::new(Arc::new(service), Arc::new(Notify::new()));
    runtime.spawn(serve_tls(listener, tls, handlers, std::future::pending()));
    address.to_string()
}

fn as_holder(name: &str, address: &str) -> String {
    let own = format!("--tls-cert pki/{name}.crt --tls-key pki/{name}.key");
    format!("--metadata {address} --tls-ca pki/ca.crt {own}")
}

#[test]
fn commands_go_over_tls_and_a_revoked_certificate_is_told_so() {
    let (folder, runtime) = (Folder::new(), Runtime::new().expect("a runtime"));
    let address = serve(&folder, &runtime);
    let (root, node) = (as_holder("root", &address), as_holder("n1", &address));
    assert_eq!(folder.done(&format!("pki revoked {root}")), "no certificate is revoked\n");
    folder.done(&format!("pool list {root}"));
    let said = folder.refused(&format!("volume list {node}"), 4);
    assert!(said.contains("the role node may not call"), "{said}");
    let said = folder.refused(&format!("pool list --metadata https://{address}"), 2);
    assert!(said.contains("--tls-ca"), "{said}");
    let said = folder.refused(&format!("pool list --metadata {address} --tls-ca pki/ca.crt"), 2);
    assert!(said.contains("together or not at all"), "{said}");
    let said = folder.refused(&format!("pool list --metadata {address}"), 5);
    assert!(said.contains("TLS only"), "{said}");
    let told = folder.done(&format!("pki revoke --cert pki/n1.crt --reason lost {root}"));
    assert!(told.contains("lost"), "{told}");
    let said = folder.refused(&format!("pool list {node}"), 4);
    assert!(said.contains("was revoked"), "{said}");
    // Another certificate for the same node is as good as the first was.
    folder.done("pki rotate n1 --now --dir pki");
    folder.done(&format!("pool list {node}"));
}
