//! A stand-in for a Kubernetes cluster: an API server that knows the kinds it is told, keeps what kubectl creates, deletes it,
//! and takes patches. It checks nothing; `schemas.rs` does.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use serde_json::{Value, json};

use crate::support::mesh::text;

/// Kinds that are in no namespace.
const CLUSTER_WIDE: [&str; 2] = ["GatewayClass", "Namespace"];

/// Where `kubectl apply` notes what it was given.
const APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A running API server. It ends with the test program.
pub struct Cluster {
    addr: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    /// The kinds, by group and version as they stand in `apiVersion`.
    kinds: BTreeMap<String, Vec<String>>,
    /// What is kept, by its path.
    objects: BTreeMap<String, Value>,
    /// The patches of `kubectl patch`, by the path of what they change.
    patches: Vec<(String, Value)>,
}

/// The name of a kind in paths.
fn plural(kind: &str) -> String {
    let name = kind.to_lowercase();
    match name.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'i', 'o', 'u']) => format!("{stem}ies"),
        _ if name.ends_with(['s', 'x']) => format!("{name}es"),
        _ => format!("{name}s"),
    }
}

/// Where resources of this `apiVersion` are.
fn root(version: &str) -> String {
    if version.contains('/') {
        format!("/apis/{version}")
    } else {
        format!("/api/{version}")
    }
}

/// The path of a resource.
pub fn path(resource: &Value) -> String {
    let namespace = resource["metadata"]["namespace"].as_str();
    let kind = text(&resource["kind"]);
    let within = match namespace {
        _ if CLUSTER_WIDE.contains(&kind) => String::new(),
        namespace => format!("/namespaces/{}", namespace.unwrap_or("default")),
    };
    format!(
        "{}{within}/{}/{}",
        root(text(&resource["apiVersion"])),
        plural(kind),
        text(&resource["metadata"]["name"])
    )
}

impl Cluster {
    /// Starts one that knows the kinds of these resources, and has those in `existing`.
    pub fn start(known: &[Value], existing: &[Value]) -> Self {
        let mut shared = Shared::default();
        let secret = json!({"apiVersion": "v1", "kind": "Secret"});
        for resource in known.iter().chain(existing).chain([&secret]) {
            let version = text(&resource["apiVersion"]).to_owned();
            let kind = text(&resource["kind"]).to_owned();
            let kinds = shared.kinds.entry(version).or_default();
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        for resource in existing {
            shared.objects.insert(path(resource), resource.clone());
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("it has an address");
        let shared = Arc::new(Mutex::new(shared));
        let kept = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&kept);
                thread::spawn(move || serve(&stream, &shared));
            }
        });
        Self { addr, shared }
    }

    /// What kubectl calls it.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// All that it keeps, by its path.
    pub fn objects(&self) -> BTreeMap<String, Value> {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.objects.clone()
    }

    /// The patches that came.
    pub fn patches(&self) -> Vec<(String, Value)> {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.patches.clone()
    }
}

/// Answers the requests of one connection.
fn serve(stream: &TcpStream, shared: &Mutex<Shared>) {
    let mut reader = BufReader::new(stream);
    while let Some((method, target, body)) = read(&mut reader) {
        let (status, answer) = {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            shared.answer(&method, &target, &body)
        };
        let answer = answer.to_string();
        let head = format!(
            "HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        let mut writer = stream;
        if writer.write_all((head + &answer).as_bytes()).is_err() {
            return;
        }
    }
}

/// Reads a request: its method, its target and its body. `None` at the end of the connection.
fn read(reader: &mut impl BufRead) -> Option<(String, String, Vec<u8>)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((method, target, body))
}

impl Shared {
    fn answer(&mut self, method: &str, target: &str, body: &[u8]) -> (u16, Value) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let body = || -> Value { serde_saphyr::from_slice(body).expect("kubectl sends JSON") };
        match method {
            "GET" => self.get(path),
            "POST" => {
                let object = body();
                self.objects.insert(self::path(&object), object.clone());
                (201, object)
            }
            "PATCH" if self.objects.contains_key(path) => {
                let patch = body();
                // What `kubectl apply` sends has the whole resource in it.
                match patch["metadata"]["annotations"][APPLIED].as_str() {
                    Some(whole) => {
                        let whole = serde_saphyr::from_str(whole).expect("kubectl writes JSON");
                        self.objects.insert(path.to_owned(), whole);
                    }
                    None if query.contains("fieldManager=kubectl-patch") => {
                        self.patches.push((path.to_owned(), patch));
                    }
                    // It found nothing to change but what the stand-in leaves out.
                    None => {}
                }
                (200, self.objects[path].clone())
            }
            "DELETE" => match self.objects.remove(path) {
                Some(_) => (
                    200,
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
                ),
                None => (404, failure(404, "NotFound")),
            },
            _ => (405, failure(405, "MethodNotAllowed")),
        }
    }

    fn get(&self, path: &str) -> (u16, Value) {
        if path == "/api" {
            return (200, json!({"kind": "APIVersions", "versions": ["v1"]}));
        }
        if path == "/apis" {
            let groups = self.kinds.keys().filter_map(|version| {
                let (group, number) = version.split_once('/')?;
                let version = json!({"groupVersion": version, "version": number});
                Some(json!({"name": group, "versions": [version], "preferredVersion": version}))
            });
            let groups: Vec<Value> = groups.collect();
            return (
                200,
                json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}),
            );
        }
        for (version, kinds) in &self.kinds {
            if path == root(version) {
                let resources: Vec<Value> = kinds
                    .iter()
                    .map(|kind| {
                        json!({
                            "name": plural(kind),
                            "singularName": kind.to_lowercase(),
                            "namespaced": !CLUSTER_WIDE.contains(&&**kind),
                            "kind": kind,
                            "verbs": ["create", "delete", "get", "list", "patch", "update"],
                        })
                    })
                    .collect();
                let list = json!({
                    "kind": "APIResourceList",
                    "apiVersion": "v1",
                    "groupVersion": version,
                    "resources": resources,
                });
                return (200, list);
            }
        }
        match self.objects.get(path) {
            Some(object) => (200, object.clone()),
            None => (404, failure(404, "NotFound")),
        }
    }
}

fn failure(code: u16, reason: &str) -> Value {
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": reason,
        "code": code,
    })
}
