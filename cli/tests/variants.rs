//! One word of a file decides: files of `tests/rules` with something changed, and what is found then.
//!
//! A file of its own shows a trap as a reader may have it. Here is what lies next to it: the same with another operator, another
//! address or another number.

mod support;

use std::fs;

use serde_json::Value;

use self::support::{program, repository, with_needed};

/// A file of `tests/rules`, changed.
struct Variant(String);

impl Variant {
    fn of(file: &str) -> Self {
        let path = repository().join("cli/tests/rules").join(file);
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{file}: {error}"));
        Self(with_needed(&text))
    }

    /// The same with another text in place of the first of these.
    fn with(&self, old: &str, new: &str) -> Self {
        assert!(self.0.contains(old), "{old}");
        Self(self.0.replacen(old, new, 1))
    }

    /// The same without all that follows a text.
    fn until(&self, end: &str) -> Self {
        let (start, _) = self.0.split_once(end).expect("it is there");
        Self(start.to_owned())
    }

    fn report(&self) -> (i32, Value) {
        let output = program(&["check", "--format", "json", "-"], &self.0);
        let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
        assert_eq!(report["unreadable"], Value::Array(Vec::new()));
        (output.code, report)
    }

    /// What is told in a part of the report: each time the rule, and what stands where it is found.
    fn told(&self, report: &Value, part: &str) -> Vec<(String, String)> {
        let lines: Vec<&str> = self.0.lines().collect();
        let told = |one: &Value| {
            let number = |key: &str| one[key].as_u64().expect("a number") as usize - 1;
            let rest = lines[number("line")].chars().skip(number("column"));
            (
                one["rule"].as_str().expect("a name").to_owned(),
                rest.collect(),
            )
        };
        report[part]
            .as_array()
            .expect("a list")
            .iter()
            .map(told)
            .collect()
    }

    /// Just this is found, in this order: each time by a rule, and where this stands.
    #[track_caller]
    fn finds(&self, expected: &[(&str, &str)]) {
        let (code, report) = self.report();
        let told = self.told(&report, "findings");
        let mut pairs = told.iter().zip(expected);
        let is_it =
            pairs.all(|((rule, text), (own, start))| rule == own && text.starts_with(start));
        assert!(
            is_it && told.len() == expected.len(),
            "{expected:?} and not {told:?}"
        );
        assert_eq!(code, i32::from(!expected.is_empty()));
    }

    /// Nothing is found.
    #[track_caller]
    fn is_clean(&self) {
        self.finds(&[]);
    }

    /// This is noted by its rule.
    #[track_caller]
    fn notes(&self, expected: (&str, &str)) {
        let (_, report) = self.report();
        let mut notes = self.told(&report, "notes");
        notes.retain(|(rule, _)| rule == expected.0);
        let is_it = notes.len() == 1 && notes[0].1.starts_with(expected.1);
        assert!(is_it, "{expected:?} and not {notes:?}");
    }

    /// Nothing is noted by a rule.
    #[track_caller]
    fn notes_nothing_of(&self, rule: &str) {
        let (_, report) = self.report();
        let mut notes = self.told(&report, "notes");
        notes.retain(|(own, _)| own == rule);
        assert!(notes.is_empty(), "{notes:?}");
    }
}

#[test]
fn an_address_of_a_private_network_is_internal() {
    let file = Variant::of("internal-address/bad.yaml");
    let with = |address: &str| {
        let new = format!("address: \"{address}\", port_value: 10001");
        file.with("address: 0.0.0.0, port_value: 10001", &new)
    };
    for address in [
        "fe80::1",
        "fd00::1",
        "169.254.1.1",
        "::1",
        "::ffff:10.0.0.1",
    ] {
        with(address).is_clean();
    }
    for address in ["fe00::1", "2001:db8::1", "169.253.1.1", "::"] {
        with(address).finds(&[("internal-address", "address: \"")]);
    }
}

#[test]
fn a_filter_chain_for_few_callers_is_guarded() {
    let file = Variant::of("internal-address/bad-ranges-everything.yaml");
    let range = "source_prefix_ranges: [{ address_prefix: 0.0.0.0, prefix_len: 0 }]";
    for source in ["SAME_IP_OR_LOOPBACK", "1"] {
        file.with(range, &format!("source_type: {source}"))
            .is_clean();
    }
    file.with(
        range,
        "direct_source_prefix_ranges: [{ address_prefix: 10.0.0.0, prefix_len: 24 }]",
    )
    .is_clean();
    for source in ["ANY", "EXTERNAL"] {
        let open = file.with(range, &format!("source_type: {source}"));
        open.finds(&[("internal-address", "address: 0.0.0.0")]);
    }
}

/// An address of the host counts as an address of Envoy's.
#[test]
fn a_port_that_is_published_on_a_private_network_is_internal() {
    let file = Variant::of("internal-address/good-compose.yaml");
    let with = |port: &str| file.with("- 127.0.0.1:10001:10001", port);
    for address in [
        "192.168.1.5",
        "10.8.0.1",
        "100.64.0.1",
        "[::1]",
        "[fd00::1]",
    ] {
        with(&format!("- \"{address}:10001:10001\"")).is_clean();
        let bare = address.trim_matches(['[', ']']);
        let long = format!("- {{ host_ip: \"{bare}\", target: \"10001\", published: 10001 }}");
        with(&long).is_clean();
    }
    for address in ["0.0.0.0", "203.0.113.5", "[::]", "[2001:db8::1]"] {
        let port = format!("\"{address}:10001:10001\"");
        with(&format!("- {port}")).finds(&[("internal-address", &port)]);
    }
}

/// Nobody gives the environment: the default of a variable counts.
#[test]
fn a_variable_of_a_compose_file_is_its_default() {
    let file = Variant::of("internal-address/good-compose.yaml");
    let with = |port: &str| file.with("127.0.0.1:10001:10001", port);
    for port in [
        "\"${BIND:-127.0.0.1}:10001:10001\"",
        "\"${BIND-127.0.0.1}:${PORT:-10001}:10001\"",
        "\"${BIND:-${ADDRESS:-127.0.0.1}}:10001:10001\"",
        "{ host_ip: \"${BIND:-127.0.0.1}\", target: 10001, published: 10001 }",
        "\"10001:${PORT:-10003}\"",
    ] {
        with(port).is_clean();
    }
    for port in [
        "\"${BIND:-0.0.0.0}:10001:10001\"",
        "\"${BIND}:10001:10001\"",
        "\"$BIND:10001:10001\"",
        "\"${BIND:?127.0.0.1}:10001:10001\"",
        "\"10001:${PORT:-10001}\"",
    ] {
        with(port).finds(&[("internal-address", port)]);
    }
    let image = "docker.io/envoyproxy/envoy:distroless-v1.40.0";
    file.with(image, "\"${EDGE:-envoy:v1.40.0}\"").is_clean();
    for port in ["host_ip: \"${BIND:-0.0.0.0}\"", "protocol: \"${BY:-tcp}\""] {
        let port = format!("{{ {port}, target: \"${{PORT:-10001}}\" }}");
        with(&port).finds(&[("internal-address", &port)]);
    }
}

#[test]
fn a_default_in_a_compose_file_may_multiply_envoys() {
    let file = Variant::of("long-ttl/bad-compose.yaml");
    let with = |count: &str| file.with("replicas: 3", &format!("replicas: \"{count}\""));
    with("${REPLICAS:-1}").is_clean();
    with("${REPLICAS}").is_clean();
    with("${REPLICAS:-2}").finds(&[("long-ttl", "ttl")]);
}

/// Another module, or a VM with a configuration of its own, is another VM.
#[test]
fn a_plugin_of_another_vm_may_have_another_environment() {
    let file = Variant::of("environment/bad.yaml");
    let code = "code: { local: { filename: matrix-edge-auth.wasm } }\n                          environment_variables: { host_env_keys: [MAS_SECRET, OTHER] }";
    let with = |new: &str| {
        let environment = "environment_variables: { host_env_keys: [MAS_SECRET, OTHER] }";
        file.with(
            code,
            &format!("{new}\n                          {environment}"),
        )
    };
    with("code: { local: { filename: matrix-edge-auth.wasm } }")
        .finds(&[("environment", "environment_variables")]);
    // It has no cache in common with the others, which is the matter of another rule.
    with("code: { local: { filename: another.wasm } }").finds(&[("vm-id", "code")]);
    let istio = Variant::of("environment/bad-istio.yaml");
    let url = "url: oci://registry.example.org/edge:0.1.0\n---";
    for (new, is_same) in [
        ("url: registry.example.org/edge:0.1.0", true),
        ("url: oci://registry.example.org/another:1", false),
        ("url: oci://registry.example.org/edge:0.2.0", false),
    ] {
        let changed = istio.with(url, &format!("{new}\n---"));
        if is_same {
            changed.finds(&[("environment", "vmConfig")]);
        } else {
            changed.is_clean();
        }
    }
    let digest = "sha256: 3f2a9c";
    let other = istio.with(
        url,
        &format!("url: oci://mirror.test/edge\n  {digest}\n---"),
    );
    other.is_clean();
    let same = other.with(
        "  url: oci://registry",
        &format!("  {digest}\n  url: oci://registry"),
    );
    same.finds(&[("environment", "vmConfig")]);
}

/// Docker Compose adds up what several files say of a service, and those after the first need no image.
#[test]
fn a_service_may_stand_in_several_compose_files() {
    let file = Variant::of("internal-address/good-compose.yaml");
    let with = |more: &str| Variant(format!("{}---\nservices:\n{more}\n", file.0));
    with("  envoy: { ports: [\"10001:10001\"] }").finds(&[("internal-address", "\"10001:10001\"")]);
    with("  envoy: { network_mode: host }").finds(&[("internal-address", "network_mode")]);
    with("  envoy: { ports: [\"127.0.0.1:10001:10001\"] }").is_clean();
    with("  web: { ports: [\"10001:10001\"] }").is_clean();
    with("  web: { image: nginx, ports: [\"10001:10001\"] }").is_clean();
    // The file before may be given behind.
    let (envoy, compose) = file.0.split_once("---\n").expect("two files");
    let more = "services:\n  envoy: { ports: [\"10001:10001\"] }\n";
    Variant(format!("{envoy}---\n{more}---\n{compose}"))
        .finds(&[("internal-address", "\"10001:10001\"")]);
}

/// `!override` puts what it marks in place of what files before say, and `!reset` takes that back.
#[test]
fn a_compose_file_may_take_back_what_another_says() {
    let file = Variant::of("internal-address/good-compose.yaml")
        .with("127.0.0.1:10001:10001", "10001:10001");
    let with = |more: &str| Variant(format!("{}---\nservices:{more}\n", file.0));
    let published = [("internal-address", "10001:10001")];
    with("\n  envoy: { ports: [\"10000:10000\"] }").finds(&published);
    for more in [
        "\n  envoy: { ports: !override [\"127.0.0.1:10000:10000\"] }",
        "\n  envoy: { ports: !reset [] }",
        "\n  envoy: { ports: !reset null }",
        "\n  envoy: { ports: !reset }",
        "\n  envoy: !override { image: envoyproxy/envoy }",
        " !override { envoy: { image: envoyproxy/envoy } }",
    ] {
        with(more).is_clean();
    }
    with("\n  envoy: { ports: !override [\"10001:10001\"] }")
        .finds(&[("internal-address", "\"10001:10001\"")]);
    // Another tag says nothing of this.
    with("\n  envoy: { ports: !mine [\"10000:10000\"] }").finds(&published);
    // Nobody knows what becomes of a service that is gone.
    with("\n  envoy: !reset null").finds(&[("internal-address", "address: 0.0.0.0")]);
}

/// Of a key that has one value the last counts.
#[test]
fn the_last_compose_file_says_which_network_a_service_has() {
    let file = Variant::of("internal-address/good-compose.yaml");
    let with = |mode: &str| {
        let more = format!("  envoy: {{ network_mode: {mode} }}\n");
        Variant(format!(
            "{}---\nservices:\n  envoy: {{ network_mode: host }}\n---\nservices:\n{more}",
            file.0
        ))
    };
    with("host").finds(&[("internal-address", "network_mode: host")]);
    with("bridge").is_clean();
    with("!reset null").is_clean();
}

/// Then it has no ports of its own.
#[test]
fn a_service_may_have_the_ports_of_another() {
    let file = Variant::of("internal-address/good-compose.yaml");
    let (envoy, _) = file.0.split_once("services:\n").expect("services");
    let image = "image: docker.io/envoyproxy/envoy:distroless-v1.40.0";
    let with = |mode: &str, others: &str| {
        Variant(format!(
            "{envoy}services:\n  envoy: {{ {image}, network_mode: \"{mode}\" }}\n{others}\n"
        ))
    };
    let front = |more: &str| format!("  front: {{ image: pause, {more} }}");
    let open = [("internal-address", "\"10001:10001\"")];
    let published = front("container_name: first, ports: [\"10001:10001\"]");
    with("service:front", &published).finds(&open);
    with("container:first", &published).finds(&open);
    with("service:front", &front("ports: [\"10000:10000\"]")).is_clean();
    with("service:front", &front("network_mode: host"))
        .finds(&[("internal-address", "network_mode: host")]);
    let chain =
        format!("{published}\n  middle: {{ image: pause, network_mode: \"service:front\" }}");
    with("service:middle", &chain).finds(&open);
    // Who is not in the files may publish anything.
    for unknown in ["service:elsewhere", "container:front"] {
        with(unknown, &published).finds(&[("internal-address", "address: 0.0.0.0")]);
    }
    with("none", &published).is_clean();
}

/// Principals in a list are as many as all of them together, and `LOG` refuses nobody.
#[test]
fn an_rbac_filter_guards_a_listener_if_it_refuses_most_callers() {
    let file = Variant::of("internal-address/good-rbac.yaml");
    let few = "{ direct_remote_ip: { address_prefix: 10.1.2.3, prefix_len: 32 } }";
    let open = [("internal-address", "address: 0.0.0.0")];
    for narrow in [
        "{ or_ids: { ids: [{ direct_remote_ip: { address_prefix: 10.1.2.3, prefix_len: 32 } }] } }",
        "{ source_ip: { address_prefix: 10.1.2.3, prefix_len: 32 } }",
        "{ direct_remote_ip: { address_prefix: \"fd00::\", prefix_len: 8 } }",
        "{ and_ids: { ids: [{ direct_remote_ip: { address_prefix: 10.1.2.3, prefix_len: 32 } }, { any: true }] } }",
        "{ not_id: { not_id: { direct_remote_ip: { address_prefix: 10.1.2.3, prefix_len: 32 } } } }",
        "{ header: { name: x-secret, string_match: { exact: abc } } }",
        "{ not_id: { header: { name: x-secret, string_match: { exact: abc }, invert_match: true } } }",
        "{ metadata: { filter: jwt, path: [{ key: sub }], value: { present_match: true } } }",
    ] {
        file.with(few, narrow).is_clean();
    }
    for wide in [
        "{ or_ids: { ids: [{ any: true }] } }",
        "{ and_ids: { ids: [{ any: true }, { url_path: { path: { prefix: / } } }] } }",
        "{ not_id: { not_id: { any: true } } }",
        "{ not_id: { direct_remote_ip: { address_prefix: 10.1.2.3, prefix_len: 32 } } }",
        "{ source_ip: { address_prefix: 0.0.0.0, prefix_len: 0 } }",
        "{ remote_ip: { address_prefix: \"::\", prefix_len: 0 } }",
        "{ url_path: { path: { prefix: / } } }",
        "{ header: { name: \":path\", string_match: { prefix: / } } }",
        "{ header: { name: \":method\", string_match: { exact: POST } } }",
        "{ header: { name: authorization, present_match: true } }",
        "{ header: { name: x-secret, string_match: { exact: abc }, invert_match: true } }",
    ] {
        file.with(few, wide).finds(&open);
    }
    file.with("action: ALLOW", "action: LOG").finds(&open);
}

/// Permissions say what may be asked, and nothing of who asks.
#[test]
fn an_rbac_filter_that_lets_all_ask_guards_nothing() {
    let file = Variant::of("internal-address/good-rbac.yaml");
    let few = "principals: [{ direct_remote_ip: { address_prefix: 10.1.2.3, prefix_len: 32 } }]";
    let any = "permissions: [{ any: true }]";
    let open = [("internal-address", "address: 0.0.0.0")];
    for some in [
        "{ url_path: { path: { prefix: /oauth2 } } }",
        "{ header: { name: \":path\", string_match: { prefix: /oauth2 } } }",
        "{ header: { name: \":method\", string_match: { exact: POST } } }",
        "{ destination_port: 10001 }",
    ] {
        let some = file.with(any, &format!("permissions: [{some}]"));
        some.is_clean();
        some.with(few, "principals: [{ any: true }]").finds(&open);
        // One policy is enough.
        let other = format!("{few} }}, others: {{ {any}, principals: [{{ any: true }}]");
        some.with(few, &other).finds(&open);
    }
}

/// A rule that denies must catch all others, whatever they ask or write.
#[test]
fn an_rbac_filter_that_denies_guards_if_nobody_else_evades_it() {
    let file = Variant::of("internal-address/good-rbac-deny.yaml");
    let others = "{ not_id: { direct_remote_ip: { address_prefix: 10.1.2.3, prefix_len: 32 } } }";
    for all in [
        "{ any: true }",
        "{ source_ip: { address_prefix: 0.0.0.0, prefix_len: 0 } }",
        "{ or_ids: { ids: [{ url_path: { path: { prefix: /a } } }, { any: true }] } }",
        "{ not_id: { header: { name: x-secret, string_match: { exact: abc } } } }",
    ] {
        file.with(others, all).is_clean();
    }
    for some in [
        "{ not_id: { any: true } }",
        "{ not_id: { url_path: { path: { prefix: /oauth2 } } } }",
        "{ header: { name: x-a, present_match: true } }",
        "{ header: { name: \":method\", string_match: { exact: GET } } }",
    ] {
        file.with(others, some)
            .finds(&[("internal-address", "address: 0.0.0.0")]);
    }
}

/// Without `use_remote_address` Envoy reads the address from `X-Forwarded-For`, which the caller writes.
#[test]
fn an_rbac_filter_for_an_address_that_callers_write_guards_nothing() {
    let file = Variant::of("internal-address/good-rbac.yaml");
    let remote = file.with("{ direct_remote_ip:", "{ remote_ip:");
    let open = [("internal-address", "address: 0.0.0.0")];
    remote.finds(&open);
    let head = "stat_prefix: introspection\n";
    let with = |value: bool| {
        let line = format!("{head}                use_remote_address: {value}\n");
        remote.with(head, &line)
    };
    with(true).is_clean();
    with(false).finds(&open);
    // No header counts for connections.
    connections("{ remote_ip: { address_prefix: 10.1.2.3, prefix_len: 32 } }").is_clean();
}

/// What stands nearest to a route counts.
#[test]
fn an_rbac_filter_that_routes_turn_off_guards_nothing() {
    let file = Variant::of("internal-address/good-rbac.yaml");
    let off =
        "{ \"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true }";
    let kind = "\"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute";
    let empty = format!("{{ {kind} }}");
    let rules = |principal: &str| {
        format!(
            "{{ {kind}, rbac: {{ rules: {{ policies: {{ a: {{ permissions: [{{ any: true }}], principals: [{principal}] }} }} \
             }} }} }}"
        )
    };
    let any = rules("{ any: true }");
    let few = rules("{ direct_remote_ip: { address_prefix: 10.1.2.4, prefix_len: 32 } }");
    let wrapped = |inner: &str| {
        format!(
            "{{ \"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, config: {inner} }}"
        )
    };
    let at = |file: &Variant, place: &str, indent: usize, config: &str| {
        let key = "typed_per_filter_config: { envoy.filters.http.rbac:";
        let line = format!("{place}{:indent$}{key} {config} }}\n", "");
        file.with(place, &line)
    };
    let host = "- name: introspection\n                      domains: [\"*\"]\n";
    let route = "route: { cluster: mas-for-synapse, timeout: 60s }\n";
    let at_host = |config: &str| at(&file, host, 22, config);
    let at_route = |file: &Variant, config: &str| at(file, route, 26, config);
    let open = [("internal-address", "address: 0.0.0.0")];
    for none in [off, &empty, &any, &wrapped(&any)] {
        at_host(none).finds(&open);
        at_route(&file, none).finds(&open);
        at_route(&at_host(none), &few).is_clean();
        at_route(&at_host(&few), none).finds(&open);
    }
    // A table of routes, and a cluster by weight.
    let table = "route_config:\n                  virtual_hosts:\n                    - name: introspection\n";
    let key = "typed_per_filter_config: { envoy.filters.http.rbac:";
    let keyed = table.replace(
        "config:\n",
        &format!("config:\n                  {key} {off} }}\n"),
    );
    let by_table = file.with(table, &keyed);
    by_table.finds(&open);
    at(&by_table, host, 22, &few).is_clean();
    let weighted = |config: &str| {
        let cluster = format!("{{ name: mas-for-synapse, weight: 1, {key} {config} }} }}");
        let clusters = format!("route: {{ weighted_clusters: {{ clusters: [{cluster}] }}");
        file.with("route: { cluster: mas-for-synapse", &clusters)
    };
    weighted(off).finds(&open);
    weighted(&few).is_clean();

    at_host(&wrapped(&few)).is_clean();
    at_host(off)
        .with("config: { envoy.filters.http.rbac:", "config: { other:")
        .is_clean();

    // A route of its own answers probes, and leads nowhere.
    let rest =
        "- match: { prefix: / }\n                          route: { cluster: mas-for-synapse";
    let probe = format!(
        "- match: {{ path: /health }}\n                          direct_response: {{ status: 200 }}\n{:26}typed_per_filter_config: \
         {{ envoy.filters.http.rbac: {off} }}\n                        {rest}",
        ""
    );
    let probed = file.with(rest, &probe);
    probed.is_clean();
    probed
        .with("match: { path: /health }", "match: { prefix: /oauth2 }")
        .finds(&open);
}

/// The introspection role answers by itself, and the provisioning role leaves the answer to what is behind it.
#[test]
fn a_filter_behind_the_module_guards_the_provisioning_role() {
    let file = Variant::of("internal-address/bad-rbac-after.yaml");
    file.finds(&[("internal-address", "address: 0.0.0.0")]);
    file.with("role: introspection", "role: provisioning")
        .is_clean();
}

/// A filter among those of connections, before the connection manager.
fn connections(principal: &str) -> Variant {
    let filters = "- name: introspection\n          filters:\n";
    let filter = format!(
        "{filters}            - name: rbac\n              typed_config:\n                \"@type\": \
         type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC\n                rules: {{ policies: {{ callers: {{ \
         permissions: [{{ any: true }}], principals: [{principal}] }} }} }}\n"
    );
    Variant::of("internal-address/bad.yaml").with(filters, &filter)
}

#[test]
fn an_rbac_filter_of_connections_guards_a_listener() {
    connections("{ direct_remote_ip: { address_prefix: 10.1.2.3, prefix_len: 32 } }").is_clean();
    connections("{ any: true }").finds(&[("internal-address", "address: 0.0.0.0")]);
}

/// Calico has a NetworkPolicy of its own, without a `podSelector`, and Knative a Service without ports.
#[test]
fn a_resource_of_another_program_is_none_of_kubernetes() {
    let file = Variant::of("internal-address/good-policy.yaml");
    let group = "apiVersion: networking.k8s.io/v1";
    file.with(group, "apiVersion: extensions/v1beta1")
        .is_clean();
    for other in ["projectcalico.org/v3", "crd.projectcalico.org/v1"] {
        let calico = file.with(group, &format!("apiVersion: {other}"));
        calico.finds(&[("internal-address", "address: 0.0.0.0")]);
        // One that lets everyone in takes nothing back.
        let open =
            "kind: NetworkPolicy\nmetadata: { name: log }\nspec: { ingress: [{ action: Allow }] }";
        Variant(format!("{}---\napiVersion: {other}\n{open}\n", file.0)).is_clean();
    }
    let file = Variant::of("internal-address/bad-service.yaml");
    let service = "apiVersion: v1\nkind: Service";
    let knative = "apiVersion: serving.knative.dev/v1\nkind: Service";
    file.with(service, knative).is_clean();
}

#[test]
fn a_service_that_is_reached_from_outside_opens_a_port() {
    let file = Variant::of("internal-address/bad-service.yaml");
    file.with("type: LoadBalancer", "externalIPs: [203.0.113.7]")
        .finds(&[("internal-address", "externalIPs")]);
    file.with("type: LoadBalancer", "externalIPs: []")
        .is_clean();
    file.with("type: LoadBalancer", "type: NodePort")
        .finds(&[("internal-address", "type: NodePort")]);
}

/// A name is one of a namespace. Without a namespace it may be that of any.
#[test]
fn what_is_in_another_namespace_leads_elsewhere() {
    let named = |file: &Variant, kind: &str, namespace: &str| {
        let head = format!("kind: {kind}\nmetadata: {{ ");
        file.with(&head, &format!("{head}namespace: {namespace}, "))
    };

    let service = named(
        &Variant::of("internal-address/bad-service.yaml"),
        "Deployment",
        "matrix",
    );
    let open = [("internal-address", "type: LoadBalancer")];
    service.finds(&open);
    named(&service, "Service", "matrix").finds(&open);
    named(&service, "Service", "other").is_clean();

    let ingress = named(
        &Variant::of("internal-address/bad-ingress.yaml"),
        "Service",
        "matrix",
    );
    let open = [("internal-address", "name: introspection")];
    ingress.finds(&open);
    named(&ingress, "Ingress", "matrix").finds(&open);
    named(&ingress, "Ingress", "other").is_clean();
}

/// Another name of a Service leads where the Service does.
#[test]
fn a_service_that_names_an_internal_one_opens_a_port() {
    let alias = |host: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: alias, namespace: edge }}\nspec: {{ type: ExternalName, \
             externalName: {host}, ports: [{{ name: web, port: 80 }}, {{ name: other, port: 81 }}] }}\n"
        )
    };
    let named = |file: &str, own: &str, new: &str, host: &str| {
        let file = Variant::of(&format!("internal-address/{file}"));
        let file = file.with(
            "kind: Service\nmetadata: { name: introspection }",
            "kind: Service\nmetadata: { name: introspection, namespace: matrix }",
        );
        Variant(file.with(own, new).0 + &alias(host))
    };
    let host = "introspection.matrix.svc.cluster.local";
    let ingress = |port: &str, host: &str| {
        let own = "{ name: introspection, port: { number: 80 } }";
        let new = format!("{{ name: alias, port: {{ {port} }} }}");
        named("bad-ingress.yaml", own, &new, host)
    };
    let open = [("internal-address", "name: alias")];
    for port in ["number: 80", "name: web"] {
        ingress(port, host).finds(&open);
        ingress(port, "other.matrix.svc.cluster.local").is_clean();
        ingress(port, "introspection.other.svc.cluster.local").is_clean();
    }
    for port in ["number: 81", "name: other"] {
        ingress(port, host).is_clean();
    }
    ingress("number: 80", host)
        .with(
            "metadata: { name: edge }\nspec:\n  rules",
            "metadata: { name: edge, namespace: else }\nspec:\n  rules",
        )
        .is_clean();
    let own = "{ name: introspection, port: 80 }";
    named("bad-route.yaml", own, "{ name: alias, port: 80 }", host).finds(&open);

    let file = Variant::of("internal-address/bad-virtual-service.yaml");
    let own = "host: introspection.matrix.svc.cluster.local";
    let file = Variant(file.with(own, "host: alias.edge").0 + &alias(host));
    file.finds(&[("internal-address", "host: alias.edge")]);
    file.with("host: alias.edge", "host: alias.else").is_clean();
}

#[test]
fn a_route_of_each_kind_opens_a_port() {
    let file = Variant::of("internal-address/bad-route.yaml");
    let open = [("internal-address", "name: introspection, port: 80")];
    for kind in ["GRPCRoute", "HTTPRoute", "TCPRoute", "TLSRoute"] {
        file.with("kind: HTTPRoute", &format!("kind: {kind}"))
            .finds(&open);
    }
    file.with("kind: HTTPRoute", "kind: UDPRoute").is_clean();

    let file = Variant::of("internal-address/bad-virtual-service.yaml");
    let open = [("internal-address", "host: introspection.matrix")];
    for kind in ["http", "tcp", "tls"] {
        file.with("  http:\n    - route:", &format!("  {kind}:\n    - route:"))
            .finds(&open);
    }
    let host = "host: introspection.matrix.svc.cluster.local";
    let port = |number: u16| file.with(host, &format!("{host}, port: {{ number: {number} }}"));
    port(80).finds(&open);
    port(81).is_clean();
}

/// A selector selects everything if it has neither labels nor expressions.
#[test]
fn a_rule_lets_in_what_its_selectors_select() {
    let file = Variant::of("internal-address/good-policy-labels.yaml");
    let with = |peer: &str| file.with("podSelector: { matchLabels: { app: synapse } }", peer);
    for few in [
        "podSelector: { matchExpressions: [{ key: app, operator: In, values: [synapse] }] }",
        "namespaceSelector: { matchExpressions: [{ key: name, operator: Exists }] }",
        "namespaceSelector: {}, podSelector: { matchExpressions: [{ key: app, operator: In, values: [synapse] }] }",
        "namespaceSelector: { matchLabels: { name: matrix } }, podSelector: {}",
    ] {
        with(few).is_clean();
    }
    for all in [
        "podSelector: {}",
        "namespaceSelector: {}",
        "namespaceSelector: { matchExpressions: [] }, podSelector: { matchLabels: {} }",
    ] {
        with(all).finds(&[("internal-address", all)]);
    }
}

/// Every namespace has its name for a label. A selector that only leaves out lets in whatever else there is.
#[test]
fn an_expression_may_let_everyone_in() {
    let file = Variant::of("internal-address/good-policy-labels.yaml");
    let with = |peer: &str| file.with("podSelector: { matchLabels: { app: synapse } }", peer);
    let namespaces =
        |one: &str| format!("namespaceSelector: {{ matchExpressions: [{{ {one} }}] }}");
    let pods = |one: &str| format!("podSelector: {{ matchExpressions: [{{ {one} }}] }}");
    let name = "key: kubernetes.io/metadata.name, operator:";
    for all in [
        namespaces(&format!("{name} Exists")),
        namespaces(&format!("{name} NotIn, values: [foo]")),
        namespaces("key: zzz, operator: DoesNotExist"),
        namespaces(&format!(
            "{name} Exists }}, {{ key: zzz, operator: DoesNotExist"
        )),
        format!(
            "namespaceSelector: {{}}, {}",
            pods("key: zzz, operator: DoesNotExist")
        ),
        pods("key: zzz, operator: DoesNotExist"),
        pods("key: app, operator: NotIn, values: [foo]"),
    ] {
        with(&all).finds(&[("internal-address", &all)]);
    }
    for few in [
        namespaces(&format!("{name} In, values: [matrix]")),
        namespaces(&format!("{name} DoesNotExist")),
        namespaces("key: trusted, operator: Exists"),
        namespaces(&format!(
            "{name} Exists }}, {{ key: trusted, operator: Exists"
        )),
        format!(
            "namespaceSelector: {{ matchLabels: {{ a: b }}, matchExpressions: [{{ {name} Exists }}] }}"
        ),
        format!(
            "{}, podSelector: {{ matchLabels: {{ app: synapse }} }}",
            namespaces(&format!("{name} Exists"))
        ),
        pods(&format!("{name} Exists")),
        pods("key: app, operator: Exists"),
    ] {
        with(&few).is_clean();
    }
    // It leaves somebody out who is in the files, beside Envoy itself.
    let other = |namespace: &str| {
        format!(
            "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: web{namespace} }}\nspec: {{ template: {{ metadata: \
             {{ labels: {{ app: web }} }}, spec: {{ containers: [] }} }} }}\n"
        )
    };
    let leaving = |peer: &str, namespace: &str| {
        Variant(with(peer).0.trim_end().to_owned() + "\n" + &other(namespace))
    };
    let not_web = pods("key: app, operator: NotIn, values: [web]");
    let not_envoy = pods("key: app, operator: NotIn, values: [edge]");
    leaving(&not_web, "").is_clean();
    leaving(&format!("namespaceSelector: {{}}, {not_web}"), "").is_clean();
    leaving(&not_envoy, "").finds(&[("internal-address", &not_envoy)]);
    leaving(&not_web, ", namespace: other").is_clean();
    leaving(&not_web, ", namespace: other")
        .with(
            "metadata: { name: introspection }\nspec:\n  podSelector",
            "metadata: { name: introspection, namespace: matrix }\nspec:\n  podSelector",
        )
        .finds(&[("internal-address", &not_web)]);
}

/// The rule for the gateway's clients names no number.
#[test]
fn a_rule_without_a_port_brings_clients_to_every_port() {
    let file = Variant::of("internal-address/good-policy-clients.yaml");
    let with = |ports: &str| file.with("ports: [{ port: 10000 }]", ports);
    with("ports: [{ protocol: TCP }]").finds(&[("internal-address", "ports: [{ protocol: TCP }]")]);
    with("ports: [{ protocol: UDP }]").is_clean();
}

#[test]
fn a_service_opens_the_ports_that_it_has() {
    let file = Variant::of("internal-address/bad-service.yaml");
    let with = |ports: &str| file.with("{ port: 80, targetPort: introspection }", ports);
    let open = [("internal-address", "type: LoadBalancer")];
    with("{ port: 10001 }").finds(&open);
    with("{ port: 80, targetPort: 10001, protocol: TCP }").finds(&open);
    with("{ port: 10001, protocol: UDP }").is_clean();
    with("{ port: 10001, targetPort: 10000 }").is_clean();
}

#[test]
fn a_default_backend_leads_here_as_well() {
    let file = Variant::of("internal-address/bad-ingress.yaml");
    let file = file.until("  rules:\n    - host: auth.example.org");
    let with = |backend: &str| Variant(format!("{}  defaultBackend: {backend}\n", file.0));
    with("{ service: { name: introspection, port: { number: 80 } } }")
        .finds(&[("internal-address", "name: introspection")]);
    with("{ service: { name: other, port: { number: 80 } } }").is_clean();
}

/// A Service may have more ports than one, and more than one may lead to the listener.
#[test]
fn a_route_to_another_port_of_the_service_leads_elsewhere() {
    let file = Variant::of("internal-address/bad-route.yaml");
    let file = file.with(
        "ports: [{ port: 80, targetPort: introspection }]",
        "ports: [{ port: 80, targetPort: introspection }, { port: 81, targetPort: 10000 }, { port: 82, targetPort: 10001 }]",
    );
    let with = |port: u16| {
        file.with(
            "name: introspection, port: 80",
            &format!("name: introspection, port: {port}"),
        )
    };
    with(81).is_clean();
    for port in [80, 82] {
        with(port).finds(&[("internal-address", "name: introspection, port: ")]);
    }
}

/// The pods have the label `app: edge`. As in Kubernetes, `NotIn` selects pods without the label, too.
#[test]
fn a_policy_closes_a_port_of_the_pods_that_its_expressions_select() {
    let file = Variant::of("internal-address/good-policy-labels.yaml");
    let with = |expression: &str| file.with("key: app, operator: In, values: [edge]", expression);
    for selecting in [
        "key: app, operator: In, values: [other, edge]",
        "key: app, operator: NotIn, values: [other]",
        "key: tier, operator: NotIn, values: [edge]",
        "key: app, operator: Exists",
        "key: tier, operator: DoesNotExist",
    ] {
        with(selecting).is_clean();
    }
    for other in [
        "key: app, operator: In, values: [other]",
        "key: tier, operator: In, values: [edge]",
        "key: app, operator: NotIn, values: [edge]",
        "key: tier, operator: Exists",
        "key: app, operator: DoesNotExist",
    ] {
        with(other).finds(&[("internal-address", "address: 0.0.0.0")]);
    }
}

/// Of the two routes the first has the label `a: b`, and the second none. A policy that selects a route replaces the one with the
/// module there. As in Kubernetes, `NotIn` selects routes without the label, too.
#[test]
fn a_policy_replaces_that_of_the_gateway_where_its_expressions_select_routes() {
    let file = Variant::of("unguarded-route/bad-selector-expression.yaml");
    let both = "{ key: a, operator: In, values: [b, c] }, { key: d, operator: DoesNotExist }";
    for (expression, selected) in [
        ("{ key: a, operator: In, values: [c] }", 0),
        ("{ key: d, operator: Exists }", 0),
        ("{ key: a, operator: In, values: [b] }", 1),
        ("{ key: a, operator: NotIn, values: [b] }", 1),
        ("{ key: a, operator: Exists }", 1),
        ("{ key: a, operator: DoesNotExist }", 1),
        ("{ key: a, operator: NotIn, values: [c] }", 2),
        ("{ key: d, operator: DoesNotExist }", 2),
    ] {
        let found = [("unguarded-route", "name: synapse"); 2];
        file.with(both, expression).finds(&found[..selected]);
    }
}

#[test]
fn the_number_of_workers_may_stand_beside_its_flag_or_in_the_same_word() {
    let file = Variant::of("circuit-breaker/bad-workers.yaml");
    let found = [("circuit-breaker", "circuit_breakers"); 3];
    for arguments in [
        "--concurrency=8",
        "\"--concurrency\", \"8\"",
        "\"--concurrency 8\"",
    ] {
        file.with("--concurrency, \"8\"", arguments).finds(&found);
    }
    for kind in ["DaemonSet", "StatefulSet"] {
        file.with("kind: Deployment", &format!("kind: {kind}"))
            .finds(&found);
    }
    file.with("--concurrency, \"8\"", "--concurrency=7")
        .is_clean();
}

/// Other programs have such a flag, too.
#[test]
fn workers_of_another_program_are_not_envoys() {
    let file = Variant::of("circuit-breaker/bad-workers.yaml");
    let (start, deployment) = file.0.split_once("kind: Deployment").expect("a Deployment");
    let envoys = format!("kind: Deployment{deployment}");
    let other = envoys
        .replace("envoy", "celery")
        .replace("matrix-edge-auth", "celery");
    assert_ne!(envoys, other);
    Variant(format!("{start}{other}")).is_clean();

    let (bootstrap, _) = start.rsplit_once("---").expect("documents");
    let with = |services: &str| Variant(format!("{bootstrap}---\nservices:\n{services}"));
    let envoy =
        "  edge: { image: \"envoyproxy/envoy:v1.40.0\", command: [\"--concurrency\", \"8\"] }\n";
    let worker = "  worker: { image: celery, command: celery worker --concurrency 16 }\n";
    let found = [("circuit-breaker", "circuit_breakers"); 3];
    with(envoy).finds(&found);
    with(worker).is_clean();
    with(&format!("{envoy}{worker}")).finds(&found);
}

/// Envoy runs one then.
#[test]
fn no_worker_is_one() {
    let file = Variant::of("circuit-breaker/bad-workers.yaml");
    let none = file.with("--concurrency, \"8\"", "--concurrency=0");
    none.is_clean();
    none.with("max_requests: 5119", "max_requests: 639")
        .finds(&[("circuit-breaker", "circuit_breakers")]);

    let file = Variant::of("circuit-breaker/bad-workers-envoy-gateway.yaml");
    let none = file.with("concurrency: 4", "concurrency: 0");
    none.is_clean();
    let cluster = "cluster: mas-introspection\n";
    none.with(
        cluster,
        &format!("{cluster}          max_in_flight: 1000\n"),
    )
    .finds(&[("circuit-breaker", "circuit_breakers"); 3]);
}

/// One place may have several faults.
#[test]
fn each_limit_that_is_too_low_is_told() {
    let file = Variant::of("circuit-breaker/bad.yaml");
    let few = ("circuit-breaker", "circuit_breakers");
    for (thresholds, number) in [
        ("max_retries: 3, max_requests: 10", 2),
        (
            "max_connections: 10, max_requests: 10, max_pending_requests: 10, max_retries: 0",
            4,
        ),
    ] {
        file.with("max_retries: 3", thresholds)
            .finds(&vec![few; number]);
    }
}

/// Of the thresholds that for usual priority counts.
#[test]
fn the_limits_of_high_priority_are_others() {
    let file = Variant::of("circuit-breaker/bad.yaml");
    let with = |thresholds: &str| file.with("thresholds: [{ max_retries: 3 }]", thresholds);
    let few = [("circuit-breaker", "circuit_breakers")];
    with("thresholds: [{ priority: HIGH, max_retries: 256 }, { max_retries: 3 }]").finds(&few);
    with("thresholds: [{ priority: 1, max_retries: 256 }, { priority: DEFAULT, max_retries: 3 }]")
        .finds(&few);
    with("thresholds: [{ priority: HIGH, max_retries: 3 }, { max_retries: 256 }]").is_clean();
}

/// Over HTTP/2, or where it may be.
#[test]
fn calls_may_share_a_connection() {
    let file = Variant::of("circuit-breaker/good-http2.yaml");
    let http2 = "explicit_http_config: { http2_protocol_options: {} }";
    file.with(http2, "auto_config: {}").is_clean();
    file.with(http2, "explicit_http_config: { http_protocol_options: {} }")
        .finds(&[("circuit-breaker", "circuit_breakers")]);
}

/// Envoy repeats calls in a fleet, or where the cluster says so. Elsewhere the module does, however many there are.
#[test]
fn limits_of_repetition_count_where_something_repeats_calls() {
    let file = Variant::of("circuit-breaker/bad.yaml");
    file.with("                              shard_by_token: true\n", "")
        .is_clean();
    let secret = "credential: { bearer: { env: MAS_SECRET } }\n";
    let retries = format!("{secret}                              retries: 0\n");
    let never = file.with(secret, &retries);
    never.finds(&[("retries", "retries: 0")]);
    let assignment = "load_assignment: { cluster_name: mas-introspection";
    let policy = "typed_extension_protocol_options:\n        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n          \
                  \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n          retry_policy: { \
                  retry_on: \"reset\", num_retries: 1 }\n      ";
    never
        .with(assignment, &format!("{policy}{assignment}"))
        .finds(&[("circuit-breaker", "circuit_breakers")]);
}

/// The introspection role of this file may make as many calls as the gateway, which are 320. The provisioning role makes none.
#[test]
fn calls_are_those_of_the_roles_that_ask_this_cluster() {
    let file = Variant::of("shared-cluster/good.yaml").with(
        "thresholds: [{ max_retries: 256 }]",
        "thresholds: [{ max_retries: 256, max_requests: 640, max_pending_requests: 640, max_connections: 640 }]",
    );
    let with = |file: &Variant, role: &str, number: u16| {
        let head = format!(
            "role: {role}\n                            server_name: example.org\n                            "
        );
        let asked = format!(
            "{head}introspection: {{ cluster: mas-introspection, authority: auth.example.org, credential: {{ bearer: {{ env: \
             MAS_SECRET }} }}, max_in_flight: {number} }}"
        );
        file.with(&format!("{head}introspection: *mas"), &asked)
    };
    file.is_clean();
    with(&file, "provisioning", 257).is_clean();
    let many = with(&file, "introspection", 257);
    let few = ("circuit-breaker", "circuit_breakers");
    many.finds(&[few; 3]);
    // Of two listeners of a role the one with the most counts.
    many.with("role: provisioning", "role: introspection")
        .with(
            "cluster: homeserver, timeout",
            "cluster: mas-for-synapse, timeout",
        )
        .finds(&[("stop-iteration", "name: provisioning"), few, few, few]);
}

#[test]
fn every_bridge_is_refused_where_mas_is_asked_about_its_token() {
    let file = Variant::of("bridges/bad.yaml");
    let key = "unrecognized_tokens: reject";
    file.with(key, "unrecognized_tokens: introspect")
        .finds(&[("bridges", "unrecognized_tokens")]);
    file.with(key, "unrecognized_tokens: pass").is_clean();
}

/// Envoy then does what it does by default, and the flag of earlier versions counts.
#[test]
fn an_unspecified_policy_fails_closed() {
    let file = Variant::of("fail-closed/bad-number.yaml");
    let with = |policy: &str| file.with("failurePolicy: 2", policy);
    with("failure_policy: UNSPECIFIED").finds(&[("fail-closed", "failure_policy")]);
    with("failurePolicy: 0").finds(&[("fail-closed", "failurePolicy")]);
    with("failure_policy: UNSPECIFIED\n                        fail_open: true")
        .finds(&[("fail-open", "fail_open")]);
}

#[test]
fn a_gateway_may_say_that_its_bodies_stay_in_envoy() {
    Variant::of("stop-iteration/bad-gateway.yaml")
        .with("stop_iteration: true", "stop_iteration: false")
        .is_clean();
}

/// The role that hears of ends asks nothing.
#[test]
fn a_short_ttl_is_no_fault_of_the_provisioning_role() {
    let file = Variant::of("shared-cluster/good.yaml");
    let end = "                  - name: envoy.filters.http.router\n                route_config:\n                  \
               virtual_hosts:\n                    - name: ";
    let with = |role: &str| {
        let cache = format!("cache: *cache\n{end}{role}\n");
        file.with(&cache, &cache.replace("*cache", "{ ttl: 4s }"))
    };
    with("provisioning").is_clean();
    with("introspection").finds(&[("short-ttl", "ttl: 4s")]);
}

/// Forms are read by the introspection role alone.
#[test]
fn a_gateway_may_buffer_less_than_a_form() {
    let file = Variant::of("introspection-buffer/good.yaml");
    let limit = "per_connection_buffer_limit_bytes: 32768\n      ";
    for (name, found) in [
        ("gateway", &[][..]),
        (
            "introspection",
            &[("introspection-buffer", "per_connection")],
        ),
    ] {
        let listener = format!("- name: {name}\n      ");
        let none = Variant(
            file.0
                .replace("per_connection_buffer_limit_bytes: 65536\n      ", ""),
        );
        none.with(&listener, &format!("{listener}{limit}"))
            .finds(found);
    }
}

/// Istio then takes no notice of the value.
#[test]
fn a_variable_of_envoys_own_environment_is_not_in_the_file() {
    let file = Variant::of("visible-secret/bad-istio.yaml");
    let found = &[("visible-secret", "value: s3cret")];
    file.with("value: s3cret", "value: s3cret, valueFrom: INLINE")
        .finds(found);
    file.with("value: s3cret", "value: \"\", valueFrom: HOST")
        .is_clean();
}

#[test]
fn a_policy_without_retries_repeats_no_logout() {
    let file = Variant::of("retries/bad-logout.yaml");
    let once = file.with("num_retries: 2", "num_retries: 0");
    once.finds(&[("retries", "retry_on: \"connect-failure, gateway-error\"")]);
    once.with("num_retries: 2", "num_retries: 0").is_clean();
}

#[test]
fn an_upgrade_that_is_turned_off_is_none() {
    for file in ["upgrades/bad.yaml", "upgrades/bad-route.yaml"] {
        let file = Variant::of(file);
        let kind = "{ upgrade_type: websocket }";
        let off = file.with(kind, "{ upgrade_type: websocket, enabled: false }");
        off.is_clean();
        file.with(kind, "{ upgrade_type: websocket, enabled: true }")
            .finds(&[("upgrades", "upgrade_configs")]);
    }
}

/// What the connection manager allows counts where no route refuses it.
#[test]
fn an_upgrade_may_be_refused_by_every_route() {
    let file = Variant::of("upgrades/bad.yaml");
    let refusing = |kind: &str, to: &[&str]| {
        let refused = format!("upgrade_configs: [{{ upgrade_type: {kind}, enabled: false }}]");
        to.iter().fold(Variant(file.0.clone()), |file, old| {
            file.with(old, &format!("{old}, {refused}"))
        })
    };
    let found = &[("upgrades", "upgrade_configs: [{ upgrade_type: websocket }]")];
    let of_mas = "regex: '/_matrix/client/v3/(login|logout)' } }\n                          route: { cluster: mas";
    let both = file.with(
        "cluster: homeserver\n",
        "cluster: homeserver\n                            upgrade_configs: [{ upgrade_type: WebSocket, enabled: false }]\n",
    );
    both.finds(found);
    let both = both.with(
        of_mas,
        &format!("{of_mas}, upgrade_configs: [{{ upgrade_type: websocket, enabled: false }}]"),
    );
    both.is_clean();
    both.with("WebSocket, enabled: false", "CONNECT, enabled: false")
        .finds(found);
    both.with("WebSocket, enabled: false", "websocket").finds(&[
        found[0],
        ("upgrades", "upgrade_configs: [{ upgrade_type: websocket }]"),
    ]);
    refusing("websocket", &[of_mas]).finds(found);
}

/// `normalize_path` is a share in percent, and the other one a number of an action.
#[test]
fn a_runtime_key_counts_where_the_manager_leaves_the_choice_to_it() {
    let file = Variant::of("path-normalisation/bad-runtime.yaml");
    let share = |share: u8| {
        let new = format!("normalize_path: {share}");
        file.with("normalize_path: 100", &new)
    };
    share(1).finds(&[(
        "path-normalisation",
        "http_connection_manager.normalize_path",
    )]);
    share(0).is_clean();

    let file = Variant::of("path-normalisation/bad-runtime-nested.yaml");
    let said = |action: &str| {
        let key = "normalize_path: false\n";
        let new = format!("{key}                path_with_escaped_slashes_action: {action}\n");
        file.with(key, &new)
    };
    let found = &[("path-normalisation", "path_with_escaped_slashes_action: 4")];
    file.finds(found);
    for default in ["IMPLEMENTATION_SPECIFIC_DEFAULT", "0"] {
        said(default).finds(found);
        said(default).with("action: 4", "action: 1").is_clean();
    }
    said("KEEP_UNCHANGED").is_clean();
}

/// Whichever way a route rewrites its paths. A prefix that is replaced by itself changes none.
/// Flux, Argo CD and K3s give values to the chart of Istio, which may be a part of another.
#[test]
fn what_installs_istio_tells_what_it_makes_of_paths() {
    let file =
        Variant::of("path-normalisation/good-istio-operator.yaml").until("apiVersion: install");
    let mesh = "meshConfig: { pathNormalization: { normalization: NONE } }";
    for installed in [
        format!("istiod: {{ {mesh} }}\n"),
        format!("kind: HelmRelease\nspec: {{ values: {{ {mesh} }} }}\n"),
        format!("kind: HelmRelease\nspec: {{ values: {{ istiod: {{ {mesh} }} }} }}\n"),
        format!(
            "kind: Application\nspec: {{ source: {{ helm: {{ valuesObject: {{ {mesh} }} }} }} }}\n"
        ),
        format!(
            "kind: Application\nspec: {{ sources: [{{}}, {{ helm: {{ valuesObject: {{ {mesh} }} }} }}] }}\n"
        ),
        format!(
            "kind: Application\nspec:\n  source:\n    helm:\n      values: |\n        {mesh}\n"
        ),
        format!("kind: HelmChart\nspec:\n  valuesContent: |-\n    {mesh}\n"),
        format!("kind: HelmChartConfig\nspec:\n  valuesContent: |-\n    istiod: {{ {mesh} }}\n"),
    ] {
        let with = Variant(format!("{}apiVersion: v1\n{installed}", file.0));
        with.is_clean();
        let merging = with.with("NONE", "MERGE_SLASHES");
        let (_, report) = merging.report();
        let told = merging.told(&report, "findings");
        assert_eq!(told.len(), 1, "{installed}: {told:?}");
        for (old, new) in [("NONE", "BASE"), ("meshConfig", "mesh")] {
            with.with(old, new)
                .finds(&[("path-normalisation", "failStrategy")]);
        }
    }
    file.finds(&[("path-normalisation", "failStrategy")]);
}

#[test]
fn a_route_of_the_homeserver_rewrites_no_path() {
    let file = Variant::of("path-normalisation/good.yaml");
    let timeout = "timeout: 0s\n";
    for rewrite in [
        "prefix_rewrite: /a/",
        "regex_rewrite: { pattern: { regex: a }, substitution: b }",
        "path_rewrite_policy: { name: template }",
    ] {
        let new = format!("{timeout}                            {rewrite}\n");
        file.with(timeout, &new)
            .finds(&[("path-normalisation", rewrite)]);
    }
    let same = format!("{timeout}                            prefix_rewrite: /\n");
    file.with(timeout, &same).is_clean();
}

/// An EnvoyPatchPolicy may add a cluster.
#[test]
fn envoy_gateway_has_the_clusters_that_a_patch_adds() {
    let file = Variant::of("unknown-cluster/good-envoy-gateway.yaml");
    let with = |kind: &str, operation: &str| {
        Variant(format!(
            "{}\n---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyPatchPolicy\nmetadata: {{ name: more }}\nspec: {{ \
             type: JSONPatch, jsonPatches: [{{ type: type.googleapis.com/{kind}, name: added, operation: {{ {operation} }} }}] }}\n",
            file.0.trim_end()
        ))
        .with("cluster: mas-introspection", "cluster: added")
    };
    let cluster = "envoy.config.cluster.v3.Cluster";
    let whole = |name: &str| {
        format!(
            "op: add, path: \"\", value: {{ name: {name}, circuit_breakers: {{ thresholds: [{{ max_retries: 256 }}] }} }}"
        )
    };
    let unknown = [("unknown-cluster", "cluster: added")];
    with(cluster, &whole("added")).is_clean();
    with(cluster, &whole("other")).finds(&unknown);
    with("envoy.config.listener.v3.Listener", &whole("added")).finds(&unknown);
    with(cluster, "op: add, path: /connect_timeout, value: 1s").finds(&unknown);
    // What cannot be seen may be it.
    with(cluster, "op: copy, path: \"\", from: /other").is_clean();
    // Its limits count.
    let few = whole("added").replace("max_retries: 256", "max_requests: 10");
    with(cluster, &few).finds(&[("circuit-breaker", "circuit_breakers")]);
}

#[test]
fn envoy_gateway_keeps_slashes_only_if_it_is_told_so() {
    let file = Variant::of("path-normalisation/good-envoy-gateway.yaml");
    for slashes in ["", ", disableMergeSlashes: false"] {
        file.with(", disableMergeSlashes: true", slashes)
            .finds(&[("path-normalisation", "name: matrix-edge-auth")]);
    }
}

#[test]
fn a_route_may_end_what_is_silent() {
    let file = Variant::of("sync-timeout/good.yaml");
    let with = |limit: &str| {
        let timeout = "timeout: 0s\n";
        file.with(
            timeout,
            &format!("{timeout}                            idle_timeout: {limit}\n"),
        )
    };
    with("20s").finds(&[("sync-timeout", "idle_timeout: 20s")]);
    with("120s").is_clean();
}

/// The rule for `/sync` alone has its path in full.
#[test]
fn a_prefix_takes_the_path_that_it_is() {
    let file = Variant::of("sync-timeout/bad-envoy-gateway.yaml");
    let with = |prefix: &str| file.with("value: /_matrix }", &format!("value: {prefix} }}"));
    let found = &[("sync-timeout", "matches: [")];
    with("/_matrix/client/v3/sync").finds(found);
    with("/_matrix/client/v3/sync/").finds(found);
    with("/_matrix/client/v3/syn").is_clean();
}

#[test]
fn a_name_that_counts_rules_is_told_whatever_else_is_known() {
    let file = Variant::of("unknown-cluster/bad-envoy-gateway.yaml");
    let alone = file.until("---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyProxy");
    alone.finds(&[("unknown-cluster", "cluster: httproute/")]);
}

#[test]
fn an_example_is_a_whole_name() {
    let file = Variant::of("placeholder/good-filled-in.yaml");
    let host = "auth.matrix.localhost";
    for real in ["myexample.org", "auth.my-example.org"] {
        file.with(host, real).is_clean();
    }
    for example in ["example.org", "auth.example.org"] {
        file.with(host, example).finds(&[("placeholder", example)]);
    }
}

/// Whose a secret is that was not filled in.
#[test]
fn a_placeholder_is_mas_s_only_where_the_module_reads_it() {
    let file = Variant::of("placeholder/good-filled-in.yaml");
    let help = |more: &str| {
        let file = Variant(format!("{}---\n{more}\n", file.0));
        let (_, report) = file.report();
        let findings = report["findings"].as_array().expect("a list");
        assert_eq!(findings.len(), 1, "{more}: {report}");
        let is_of_mas = |key: &str| findings[0][key].as_str().expect("a text").contains("MAS");
        assert_eq!(is_of_mas("message"), is_of_mas("help"));
        is_of_mas("help")
    };
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: { name: edge }\n";
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: { name: edge }\nspec: { containers: [{ name: envoy, env: [{ name: \
               MAS_SECRET, valueFrom: { secretKeyRef: { name: edge, key: mas } } }] }] }";
    for of_mas in [
        "services: { envoy: { image: envoyproxy/envoy, environment: { MAS_SECRET: changeme } } }"
            .to_owned(),
        format!("{secret}stringData: {{ MAS_SECRET: change-me }}"),
        format!("{secret}stringData: {{ mas: change-me }}\n{pod}"),
        pod.trim_start_matches("---\n").replace(
            "valueFrom: { secretKeyRef: { name: edge, key: mas } }",
            "value: change-me",
        ),
        "resources: [{ name: mas, generic_secret: { secret: { inline_string: change-me } } }]"
            .to_owned(),
    ] {
        assert!(help(&of_mas), "{of_mas}");
    }
    for other in [
        "services: { postgres: { image: postgres, environment: { POSTGRES_PASSWORD: changeme } } }"
            .to_owned(),
        format!("{secret}stringData: {{ mas: change-me }}"),
        format!("{secret}stringData: {{ other: change-me }}\n{pod}"),
        format!(
            "{}stringData: {{ mas: change-me }}\n{pod}",
            secret.replace("edge", "postgres")
        ),
    ] {
        assert!(!help(&other), "{other}");
    }
}

/// A document inside of a text is looked at, and the text itself is not.
#[test]
fn a_placeholder_in_a_text_is_told_once() {
    let file = Variant::of("configuration/good-text.yaml");
    file.with("[auth.example.org]", "[auth.matrix.test]")
        .with(
            "\"timeout\"",
            "\"authority\": \"auth.matrix.test\",\n                                \"timeout\"",
        )
        .finds(&[("placeholder", "\"example.org\"")]);
}

/// A pod mounts what is in its own namespace. A ConfigMap and a Secret may have one name.
#[test]
fn a_pod_of_another_namespace_or_with_a_secret_of_the_name_mounts_something_else() {
    let file = Variant::of("internal-address/bad-policy-other-pods.yaml")
        .with("{ app: other }", "{ app: edge }")
        .with(
            "{ name: edge }\ndata:",
            "{ name: edge, namespace: matrix }\ndata:",
        );
    file.is_clean();
    let with = |namespace: &str, volume: &str| {
        Variant(format!(
            "{}\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{ {namespace} name: web }}\nspec: {{ template: {{ metadata: {{ \
             labels: {{ app: web }} }}, spec: {{ containers: [], volumes: [{{ name: c, {volume} }}] }} }} }}\n",
            file.0.trim_end()
        ))
    };
    let own = "configMap: { name: edge }";
    let open = [("internal-address", "address: 0.0.0.0")];
    with("namespace: matrix,", own).finds(&open);
    with("", own).finds(&open);
    with("namespace: web,", own).is_clean();
    with("namespace: matrix,", "secret: { secretName: edge }").is_clean();
    with("namespace: matrix,", "configMap: { name: other }").is_clean();
}

/// What comes to this listener is MAS's own, with the secret that Synapse wants.
#[test]
fn a_credential_may_be_added_to_what_mas_sends() {
    let file = Variant::of("shared-cluster/good.yaml");
    let injecting = "  clusters:\n    - name: homeserver-for-mas\n      load_assignment: { cluster_name: homeserver-for-mas, \
                     endpoints: [] }\n      typed_extension_protocol_options:\n        \
                     envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n          http_filters:\n            - name: \
                     envoy.filters.http.credential_injector\n              typed_config: { \"@type\": \
                     type.googleapis.com/envoy.extensions.filters.http.credential_injector.v3.CredentialInjector }\n";
    let file = file.with("  clusters:\n", injecting);
    let lead = |cluster: &str, timeout: &str| {
        let new = format!("route: {{ cluster: homeserver-for-mas, timeout: {timeout} }}");
        file.with(
            &format!("route: {{ cluster: {cluster}, timeout: {timeout} }}"),
            &new,
        )
    };
    lead("homeserver", "60s").is_clean();
    lead("mas-for-synapse", "60s").finds(&[("injected-route", "cluster: homeserver-for-mas")]);
}

/// Of a configuration alone nobody knows which other roles there are.
#[test]
fn a_long_ttl_of_a_bare_configuration_is_not_judged() {
    let bare = "role: gateway\nserver_name: example.org\nintrospection: { cluster: mas, credential: { injected: true } }\ncache: { \
                ttl: 30m }\n";
    Variant(bare.to_owned()).is_clean();
}

#[test]
fn a_budget_by_a_header_is_noted() {
    Variant::of("budget-address/good-header.yaml").notes(("budget-address", "name: header"));
}

/// The extension for `X-Forwarded-For` reads what a client wrote unless it believes its proxies alone.
#[test]
fn a_budget_by_x_forwarded_for_is_noted() {
    let file = Variant::of("budget-address/good-header.yaml");
    let (start, rest) = file
        .0
        .split_once("original_ip_detection_extensions:")
        .expect("it is there");
    let rest = rest.split_once("http_filters:").expect("filters").1;
    let with = |config: &str| {
        Variant(format!(
            "{start}original_ip_detection_extensions: [{{ name: xff, typed_config: {{ \"@type\": \
             type.googleapis.com/envoy.extensions.http.original_ip_detection.xff.v3.XffConfig, {config} }} }}]\n                \
             http_filters:{rest}"
        ))
    };
    with("xff_num_trusted_hops: 1").notes(("budget-address", "name: xff"));
    for range in [
        "",
        "{ address_prefix: 0.0.0.0, prefix_len: 0 }",
        "{ address_prefix: 10.0.0.0, prefix_len: 8 }, { address_prefix: 128.0.0.0, prefix_len: 1 }",
        "{ address_prefix: \"::\" }",
    ] {
        with(&format!("xff_trusted_cidrs: {{ cidrs: [{range}] }}"))
            .notes(("budget-address", "name: xff"));
    }
    let trusted =
        with("xff_trusted_cidrs: { cidrs: [{ address_prefix: 10.0.0.0, prefix_len: 8 }] }");
    let (_, report) = trusted.report();
    let notes = trusted.told(&report, "notes");
    assert!(
        notes.iter().all(|(rule, _)| rule != "budget-address"),
        "{notes:?}"
    );
}

/// Whatever the order of the rules is.
#[test]
fn findings_are_told_in_the_order_of_their_lines() {
    Variant::of("path-normalisation/bad.yaml")
        .with("FAIL_RELOAD", "FAIL_OPEN")
        .with("timeout: 0s", "timeout: 20s")
        .finds(&[
            ("path-normalisation", "normalize_path: true"),
            ("fail-open", "failure_policy"),
            ("sync-timeout", "timeout: 20s"),
        ]);
}

/// The listener without the module, with other routes.
fn beside(routes: &str) -> Variant {
    let file = Variant::of("unguarded-route/bad-envoy-listener.yaml");
    let old = "routes:\n                        - match: { prefix: /_matrix/federation/ }\n                          route: { \
               cluster: homeserver, timeout: 0s }\n                        - match: { prefix: / }\n                          \
               route: { cluster: homeserver, timeout: 0s }\n";
    file.with(old, &format!("{routes}\n"))
}

#[test]
fn a_route_is_told_by_what_it_makes_of_paths() {
    let rewritten = |from: &str, rewrite: &str| {
        beside(&format!(
            "routes: [{{ match: {{ {from} }}, route: {{ {rewrite}, cluster: homeserver }} }}]"
        ))
    };
    let federation = "prefix: /_matrix/federation/";
    let found = &[("unguarded-route", "cluster: homeserver")];
    for (from, rewrite) in [
        ("prefix: /public", "prefix_rewrite: /_matrix/client"),
        ("prefix: /public", "prefix_rewrite: /"),
        ("path: /public", "prefix_rewrite: /_matrix/client/v3/sync"),
        (
            federation,
            "regex_rewrite: { pattern: { regex: ^/_matrix/federation }, substitution: /_matrix/client }",
        ),
        (
            federation,
            "regex_rewrite: { pattern: { regex: ^/_matrix/federation/(.*) }, substitution: '/_matrix/client/\\1' }",
        ),
        (
            federation,
            "path_rewrite_policy: { typed_config: { path_template_rewrite: '/_matrix/client/{rest}' } }",
        ),
        (
            "prefix: /hs/",
            "regex_rewrite: { pattern: { regex: '^/hs(/.*)$' }, substitution: '\\1' }",
        ),
        (
            "path_separated_prefix: /hs",
            "regex_rewrite: { pattern: { regex: ^/hs }, substitution: '' }",
        ),
    ] {
        rewritten(from, rewrite).finds(found);
    }
    for (from, rewrite) in [
        ("prefix: /public", "prefix_rewrite: /_matrix/federation"),
        ("path: /public", "prefix_rewrite: /health"),
        ("path: /public", "prefix_rewrite: /"),
        (
            federation,
            "regex_rewrite: { pattern: { regex: ^/(.*) }, substitution: '/\\1' }",
        ),
        (
            "prefix: /hs/",
            "regex_rewrite: { pattern: { regex: '^/hs(/.*)$' }, substitution: '/web\\1' }",
        ),
        (
            "prefix: /hs/",
            "regex_rewrite: { pattern: { regex: '^/hs/_matrix/(key|federation)/.*' }, substitution: '' }",
        ),
    ] {
        rewritten(from, rewrite).is_clean();
    }
}

#[test]
fn a_route_may_take_paths_in_any_case() {
    let of = |rule: &str| {
        beside(&format!(
            "routes: [{{ match: {{ {rule} }}, route: {{ cluster: homeserver }} }}]"
        ))
    };
    let found = &[("unguarded-route", "cluster: homeserver")];
    for path in [
        "prefix: /_MATRIX/client/",
        "path: /_matrix/client/v3/SYNC",
        "path: /_matrix/client/v3/CreateRoom",
        "path_separated_prefix: /_Matrix/Client",
        // No known path, but one of a known family.
        "path: /_SYNAPSE/admin/v1/new",
    ] {
        of(&format!("{path}, case_sensitive: false")).finds(found);
        of(&format!("{path}, case_sensitive: true")).is_clean();
        of(path).is_clean();
    }
    for path in [
        "prefix: /_MATRIX/federation/",
        "path: /_MATRIX/client/versions",
        "path_separated_prefix: /_MATRI",
    ] {
        of(&format!("{path}, case_sensitive: false")).is_clean();
    }
    // A route before it may take these paths in any case as well.
    let after = |case: &str| {
        beside(&format!(
            "routes: [{{ match: {{ prefix: /_MATRIX, {case} }}, direct_response: {{ status: 404 }} }}, {{ match: {{ prefix: /_synapse \
             }}, direct_response: {{ status: 404 }} }}, {{ match: {{ prefix: / }}, route: {{ cluster: homeserver }} }}]"
        ))
    };
    after("case_sensitive: false").is_clean();
    after("case_sensitive: true").finds(found);
}

#[test]
fn a_route_for_options_needs_no_token() {
    let of = |matcher: &str| {
        beside(&format!(
            "routes: [{{ match: {{ prefix: /, headers: [{{ name: ':method', {matcher} }}] }}, route: {{ cluster: homeserver }} }}]"
        ))
    };
    let found = &[("unguarded-route", "cluster: homeserver")];
    of("string_match: { exact: OPTIONS }").is_clean();
    of("exact_match: OPTIONS").is_clean();
    of("string_match: { exact: GET }").finds(found);
    of("string_match: { prefix: OPTIONS }").finds(found);
    of("string_match: { exact: OPTIONS }, invert_match: true").finds(found);
    of("present_match: true").finds(found);
    of("string_match: { exact: OPTIONS }")
        .with(":method", "x-method")
        .finds(found);
    let file = Variant::of("unguarded-route/bad-envoy-regex.yaml");
    let old = "safe_regex: { regex: '/_matrix/(media|client/v1/media)/.*' } }";
    let with = |method: &str| {
        let new = format!(
            "prefix: /, headers: [{{ name: ':method', string_match: {{ exact: {method} }} }}] }}"
        );
        file.with(old, &new)
    };
    with("OPTIONS").is_clean();
    with("PUT").finds(&[("unguarded-route", "typed_per_filter_config")]);
}

#[test]
fn a_route_may_be_for_a_template_or_for_a_tunnel() {
    let route = |rule: &str| {
        beside(&format!(
            "routes: [{{ match: {{ {rule} }}, route: {{ cluster: homeserver }} }}]"
        ))
    };
    let template = |path: &str| {
        route(&format!(
            "path_match_policy: {{ typed_config: {{ path_template: '{path}' }} }}"
        ))
    };
    let found = &[("unguarded-route", "cluster: homeserver")];
    template("/_matrix/client/{rest=**}").finds(found);
    template("/_matrix/client/v3/devices/{device}").finds(found);
    template("/_matrix/federation/{rest=**}").is_clean();
    route("connect_matcher: {}").finds(found);
}

#[test]
fn a_regular_expression_is_tried_with_every_endpoint() {
    let of = |regex: &str| {
        beside(&format!(
            "routes: [{{ match: {{ safe_regex: {{ regex: '{regex}' }} }}, route: {{ cluster: homeserver }} }}]"
        ))
    };
    let found = &[("unguarded-route", "cluster: homeserver")];
    for regex in [
        "/_matrix/client/(api/v1|r0|v3|unstable)/rooms/[^/]+/(send|state|join|leave|invite|kick|ban)(/.*)?",
        "/_matrix/client/(r0|v3|unstable)/(devices|delete_devices|keys/upload)(/.*)?",
        "/_matrix/client/(api/v1|r0|v3|unstable)/rooms/.*/typing/.*",
        "/_matrix/client/(r0|v3|unstable)/sendToDevice/.*",
        "/_matrix/client/(r0|v3|unstable)/room_keys/.*",
        "/_matrix/client/r0/.*",
        "/_synapse/admin/v2/users/.*",
        "/_matrix/client/(api/v1|r0|v3|unstable)/profile/.*",
        "/_matrix/client/(r0|v3|unstable)/directory/room/.*",
        "/_matrix/client/(api/v1|r0|v3|unstable)/publicRooms",
        "/_matrix/client/(v1|unstable/uk.half-shot.msc2666)/user/mutual_rooms",
        "/_matrix/client/r0/pushers/set",
        "/_synapse/admin/v1/(reset_password|deactivate|join|suspend)/.*",
        "/_synapse/admin/v1/users/[^/]+/(admin|joined_rooms|media|pushers)",
        "/_synapse/admin/v1/whois/.*",
        // An endpoint that the table does not name, of a family that it does.
        "/_synapse/admin/v3/(new|newer)/[^/]+",
        "/_matrix/client/v3/rooms/[^/]+/new",
        "/_synapse/(metrics|replication)(/.*)?",
    ] {
        of(regex).finds(found);
    }
    for regex in [
        "/_matrix/(federation|key)/.*",
        "/_matrix/client/(api/v1|r0|v3|unstable)/(login|register|refresh)(/.*)?",
        "/_matrix/client/versions",
        "/\\.well-known/matrix/.*",
        "/_matrix/(federation/v[12]|key)/[^/]+/.*",
        "/_synapse/client/(unsubscribe|pick_idp)(/.*)?",
        "/_matrix/client/(r0|v3)/profile/[^/]+",
    ] {
        of(regex).is_clean();
    }
    // A route before it may take all that needs a token.
    let file = Variant::of("unguarded-route/bad-envoy-regex.yaml");
    let with = |regex: &str| file.with("/_matrix/(media|client/v1/media)/.*", regex);
    let devices = "/_matrix/client/(r0|v3)/devices(/.*)?";
    let off = &[("unguarded-route", "typed_per_filter_config")];
    with(devices).finds(off);
    let before = "- match: { safe_regex: { regex: '/_matrix/client/v3/(login";
    let taken = format!(
        "- match: {{ prefix: /_matrix/client/ }}\n                          route: {{ cluster: homeserver, timeout: 0s \
         }}\n                        {before}"
    );
    with("/_matrix/client/(v3/devices|versions)").finds(off);
    with("/_matrix/client/(v3/devices|versions)")
        .with(before, &taken)
        .is_clean();
}

#[test]
fn an_expression_of_re2_may_be_none_of_other_engines() {
    let of = |regex: &str| {
        beside(&format!(
            "routes: [{{ match: {{ safe_regex: {{ regex: '{regex}' }} }}, route: {{ cluster: homeserver }} }}]"
        ))
    };
    let found = &[("unguarded-route", "cluster: homeserver")];
    for regex in [
        r"/_matrix/client/v3/\pL+",
        r"/_matrix/client/v3/\p{Ll}+",
        r"/_matrix/client/v3/[\pL/]+",
        r"/_matrix/client/v3/\P{Greek}+",
        r"\Q/_matrix/client/v3/sync\E",
        r"\Q/_matrix/client/\E.*",
        r"\Q/_matrix/client/v3/sync",
        r"/_matrix/client/v3/\163ync",
        r"/_matrix/client/v3/\C+",
        // Not among the known paths.
        r"/_matrix/client/v3/rooms/\p{Lu}\pN+/new",
        r"\Q/_synapse/metrics\E",
    ] {
        of(regex).finds(found);
    }
    for regex in [
        r"/_matrix/client/v3/\p{Greek}+",
        r"/_matrix/federation/\pL+",
        r"\Q/_matrix/client/.*\E",
        r"/_matrix/federation/\C+",
        // A backslash, and not the beginning of a quotation.
        r"/_matrix/client/\\Qv3/sync",
    ] {
        of(regex).is_clean();
    }
}

#[test]
fn an_expression_that_cannot_be_tried_is_noted() {
    let of = |regex: &str, cluster: &str| {
        beside(&format!(
            "routes: [{{ match: {{ safe_regex: {{ regex: '{regex}' }} }}, route: {{ cluster: {cluster} }} }}]"
        ))
    };
    let unread = "/_matrix/client/(v3";
    let note = ("unguarded-route", "safe_regex");
    of(unread, "homeserver").is_clean();
    of(unread, "homeserver").notes(note);
    for quiet in [
        of(unread, "mas"),
        of("/_matrix/federation/.*", "homeserver"),
    ] {
        quiet.notes_nothing_of("unguarded-route");
    }
    let file = Variant::of("unguarded-route/bad-envoy-regex.yaml");
    file.with("/_matrix/(media|client/v1/media)/.*", unread)
        .notes(note);
    file.with("/_matrix/(media|client/v1/media)/.*", "/_matrix/key/.*")
        .notes_nothing_of("unguarded-route");
}

/// Each line of the table counts, under each version and with each method.
#[test]
fn a_path_that_needs_a_token_with_some_method_is_told() {
    let of = |rule: &str| {
        beside(&format!(
            "routes: [{{ match: {{ {rule} }}, route: {{ cluster: homeserver }} }}]"
        ))
    };
    let found = &[("unguarded-route", "cluster: homeserver")];
    for rule in [
        "path: '/_matrix/client/v3/profile/@a:example.org/displayname'",
        "path: /_matrix/client/v3/publicRooms",
        "prefix: /_matrix/client/v3/profile/",
        "prefix: '/_matrix/client/v3/profile/@a:example.org/'",
        "prefix: /_matrix/client/r0/directory/",
        "prefix: /_matrix/client/v3/pushers/",
        "prefix: /_matrix/client/v1/login/",
        "prefix: /_matrix/client/unstable/org.matrix.msc4143/",
        "prefix: /_matrix/media/unstable/fi.mau.msc2246/",
        "prefix: /_synapse/client/",
    ] {
        of(rule).finds(found);
    }
    for rule in [
        "path: /_matrix/client/v3/login",
        "path: '/_matrix/client/v3/profile/@a:example.org'",
        "prefix: /_matrix/client/v3/password_policy",
        "prefix: /_matrix/media/v3/download/",
        "prefix: /_synapse/client/unsubscribe",
    ] {
        of(rule).is_clean();
    }
}

/// A cluster of a worker is a server, also if a regular expression alone leads there.
#[test]
fn a_worker_is_known_by_a_regular_expression() {
    let file = beside("routes: [{ match: { prefix: / }, route: { cluster: worker } }]");
    file.is_clean();
    let all = "                        - match: { prefix: / }\n                          route:\n";
    let of = |regex: &str| {
        file.with(
            all,
            &format!(
                "                        - match: {{ safe_regex: {{ regex: '{regex}' }} }}\n                          route: {{ \
                 cluster: worker, timeout: 0s }}\n{all}"
            ),
        )
    };
    of("/_matrix/client/(r0|v3)/devices(/.*)?").finds(&[("unguarded-route", "cluster: worker")]);
    of("/_matrix/client/versions").is_clean();
}

/// The gateway with a list of filters for upgrades.
fn upgrading(file: &str, config: &str) -> Variant {
    let old = "                route_config:\n";
    let new = format!(
        "                upgrade_configs: [{{ upgrade_type: websocket, {config} }}]\n{old}"
    );
    Variant::of(file).with(old, &new)
}

#[test]
fn an_upgrade_may_have_filters_without_the_module() {
    let good = "unguarded-route/good-envoy-on.yaml";
    let bare = "filters: [{ name: envoy.filters.http.router }]";
    let upgrades = ("upgrades", "upgrade_configs");
    let found = &[upgrades, ("unguarded-route", "filters: ")];
    upgrading(good, bare).finds(found);
    upgrading(good, "filters: []").finds(&[upgrades]);
    let with = |filter: &str| {
        upgrading(
            good,
            &format!("filters: [{filter}, {{ name: envoy.filters.http.router }}]"),
        )
    };
    let module = "- name: envoy.filters.http.wasm\n";
    let named = |filter: &str| {
        with(filter).with(
            module,
            "- &module\n                    name: envoy.filters.http.wasm\n",
        )
    };
    // An alias stands behind its anchor.
    let behind = |filter: &str| {
        let all = named("{ name: other }");
        let list = "[{ upgrade_type: websocket, filters: [{ name: other }";
        all.with(
            list,
            &format!("[{{ upgrade_type: websocket, filters: [{filter}"),
        )
    };
    behind("*module").finds(&[upgrades]);
    // In the list of filters it may be off, too, and a route turns it on by its name.
    let copy = |more: &str| {
        let config = "typed_config:\n                      \"@type\": type.googleapis.com/envoy.extensions.filters.http.wasm";
        behind(&format!(
            "{{ name: envoy.filters.http.wasm, {more}typed_config: *config }}"
        ))
        .with(config, &config.replacen(':', ": &config", 1))
    };
    copy("").finds(&[upgrades]);
    copy("disabled: true, ").finds(&[upgrades]);
    let on = "                    disabled: true\n";
    copy("").with(on, "").finds(&[upgrades]);
    copy("disabled: true, ").with(on, "").finds(found);
    with("{ name: other }").finds(found);
    with("{ name: other, config_discovery: {} }").finds(&[upgrades]);
    let guard = "{ name: guard, typed_config: { \"@type\": a/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz } }";
    with(guard).finds(&[upgrades]);
}

#[test]
fn filters_of_an_upgrade_count_where_it_is_allowed() {
    let good = "unguarded-route/good-envoy-on.yaml";
    let bare = "filters: [{ name: envoy.filters.http.router }]";
    let off = upgrading(good, &format!("enabled: false, {bare}"));
    off.is_clean();
    let homeserver = "cluster: homeserver\n";
    let with = |file: &Variant, config: &str| {
        file.with(
            homeserver,
            &format!("{homeserver}                            upgrade_configs: [{{ {config} }}]\n"),
        )
    };
    let found = ("unguarded-route", "filters: ");
    let upgrades = ("upgrades", "upgrade_configs");
    with(&off, "upgrade_type: WebSocket").finds(&[found, upgrades]);
    with(&off, "upgrade_type: other").finds(&[upgrades]);
    with(&off, "upgrade_type: websocket, enabled: false").is_clean();
    let on = upgrading(good, bare);
    with(&on, "upgrade_type: websocket, enabled: false").finds(&[upgrades]);
    with(&on, "upgrade_type: other, enabled: false").finds(&[upgrades, found]);
    // Routes to another server, and those that the module is off for, are none of its own.
    let disabled = "                    disabled: true\n";
    with(
        &on.with(disabled, ""),
        "upgrade_type: websocket, enabled: false",
    )
    .finds(&[upgrades]);
    let media = upgrading("unguarded-route/bad-envoy-regex.yaml", bare);
    let off_here = ("unguarded-route", "typed_per_filter_config");
    media.finds(&[upgrades, found, off_here]);
    with(&media, "upgrade_type: websocket, enabled: false").finds(&[upgrades, off_here]);
    // Routes that come from elsewhere may lead to the homeserver.
    let elsewhere = |file: &Variant| {
        file.with(disabled, "").with(
            "                route_config:\n",
            "                rds: {}\n                ignored:\n",
        )
    };
    elsewhere(&on).finds(&[upgrades, found]);
    elsewhere(&off).is_clean();
}

/// A file whose tables of routes are those of scopes.
fn scoped(file: &Variant) -> Variant {
    let mut text = String::new();
    let mut open: Option<(usize, usize)> = None;
    let mut count = 0;
    // The last line closes what is open at the end.
    for line in file.0.lines().chain(["---"]) {
        let indent = line.len() - line.trim_start().len();
        if let Some((own, number)) = open
            && indent <= own
            && !line.trim_start().starts_with('#')
        {
            let space = " ".repeat(own);
            text.push_str(&format!(
                "{space}scoped_routes: {{ scoped_route_configurations_list: {{ scoped_route_configurations: [{{ \
                 route_configuration: *scope{number} }}] }} }}\n"
            ));
            open = None;
        }
        if line.trim() == "route_config:" {
            count += 1;
            open = Some((indent, count));
            text.push_str(&line.replace("route_config:", &format!("table: &scope{count}")));
        } else {
            text.push_str(line);
        }
        text.push('\n');
    }
    Variant(text)
}

/// What is found in a table of routes is found in one of a scope.
#[test]
fn the_tables_of_scopes_are_looked_at() {
    let folder = repository().join("cli/tests/rules");
    let mut rules = std::collections::BTreeSet::new();
    for rule in fs::read_dir(&folder).expect("the folder of the rules") {
        let rule = rule.expect("a folder").path();
        for file in fs::read_dir(&rule).expect("the folder of a rule") {
            let file = file.expect("a file").path();
            let name = file.strip_prefix(&folder).expect("it is inside");
            let name = name.to_str().expect("UTF-8");
            let text = fs::read_to_string(&file).expect("a file");
            let has_table =
                text.contains(" route_config:\n") && text.contains("static_resources:\n");
            if !has_table || !name.contains("/bad") {
                continue;
            }
            let plain = Variant(with_needed(&text));
            let other = scoped(&plain);
            let told = |variant: &Variant| {
                let (_, report) = variant.report();
                let mut told = variant.told(&report, "findings");
                told.extend(variant.told(&report, "notes"));
                told.sort();
                told
            };
            let told = (told(&plain), told(&other));
            assert_eq!(told.0, told.1, "{name}");
            rules.extend(told.0.into_iter().map(|(rule, _)| rule));
        }
    }
    for rule in [
        "admin-interface",
        "forwarded-for",
        "injected-route",
        "sync-timeout",
        "unguarded-route",
    ] {
        assert!(rules.contains(rule), "{rule}");
    }
}

#[test]
fn routes_from_elsewhere_are_noted() {
    let file = Variant::of("unguarded-route/good-envoy-on.yaml");
    let table = "                route_config:\n";
    let with = |key: &str| {
        file.with(
            table,
            &format!("                {key}\n                ignored:\n"),
        )
    };
    let of_scope = |scope: &str| {
        with(&format!(
            "scoped_routes: {{ scoped_route_configurations_list: {{ scoped_route_configurations: [{{ {scope} }}] }} }}"
        ))
    };
    with("rds: { route_config_name: a }").notes(("sync-timeout", "rds"));
    with("scoped_routes: { scoped_rds: {} }").notes(("sync-timeout", "scoped_routes"));
    of_scope("route_configuration_name: a").notes(("sync-timeout", "route_configuration_name"));
    of_scope("route_configuration: { vhds: {} }").notes(("sync-timeout", "vhds"));
    file.with(
        table,
        &format!("{table}                  vhds: {{ config_source: {{}} }}\n"),
    )
    .notes(("sync-timeout", "vhds"));
    let scoped = scoped(&file);
    let (_, report) = scoped.report();
    let notes = scoped.told(&report, "notes");
    assert!(
        notes.iter().all(|(rule, _)| rule != "sync-timeout"),
        "{notes:?}"
    );
}

#[test]
fn one_scope_may_turn_the_module_off() {
    let off = "typed_per_filter_config: { envoy.filters.http.wasm: { disabled: true } }";
    let file = scoped(&Variant::of("unguarded-route/bad-envoy-regex.yaml"));
    let file = file.with(
        "/_matrix/(media|client/v1/media)/.*",
        "/_matrix/federation/.*",
    );
    file.is_clean();
    let scope = "{ route_configuration: *scope1 }";
    let with = |scopes: &str| {
        let host = "{ name: a, domains: [\"*\"], routes: [{ match: { prefix: / }, route: { cluster: homeserver, timeout: 0s } }] }";
        file.with(
            scope,
            &format!(
                "{scope}, {{ route_configuration: {{ {scopes}request_headers_to_add: [{{ header: {{ key: x-forwarded-for, value: \
                 \"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\" }}, append_action: OVERWRITE_IF_EXISTS_OR_ADD }}], virtual_hosts: \
                 [{host}] }} }}"
            ),
        )
    };
    with("").is_clean();
    with(&format!("{off}, ")).finds(&[("unguarded-route", "typed_per_filter_config")]);
}

#[test]
fn a_matcher_chooses_routes_by_paths() {
    let input = "input: { typed_config: { \"@type\": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, \
                 header_name: \":path\" } }";
    let route = "match: { prefix: / }, route: { cluster: homeserver }";
    let kind = "\"@type\": type.googleapis.com/envoy.config.route.v3";
    let action = |action: &str| format!("{{ action: {{ typed_config: {{ {kind}.{action} }} }} }}");
    let one = action(&format!("Route, {route}"));
    let list = action(&format!("RouteList, routes: [{{ {route} }}]"));
    let found = &[("unguarded-route", "cluster: homeserver")];
    let tree = |map: &str, path: &str| {
        beside(&format!(
            "matcher: {{ matcher_tree: {{ {input}, {map}: {{ map: {{ {path}: {one} }} }} }} }}"
        ))
    };
    tree("prefix_match_map", "/").finds(found);
    tree("prefix_match_map", "/_matrix/client/").finds(found);
    tree("prefix_match_map", "/_matrix/federation/").is_clean();
    tree("exact_match_map", "/_matrix/client/v3/sync").finds(found);
    tree("exact_match_map", "/").is_clean();
    beside(&format!("matcher: {{ on_no_match: {list} }}")).finds(found);
    let predicate = |text: &str| {
        beside(&format!(
            "matcher: {{ matcher_list: {{ matchers: [{{ predicate: {{ {text} }}, on_match: {list} }}] }} }}"
        ))
    };
    let single =
        |path: &str| format!("single_predicate: {{ {input}, value_match: {{ prefix: {path} }} }}");
    predicate(&single("/_matrix/client/")).finds(found);
    predicate(&single("/_matrix/federation/")).is_clean();
    let federation = single("/_matrix/federation/");
    predicate(&format!(
        "and_matcher: {{ predicate: [{{ {federation} }}] }}"
    ))
    .is_clean();
    predicate(&format!("not_matcher: {{ {federation} }}")).finds(found);
}

#[test]
fn a_cluster_with_the_homeservers_address_is_the_homeservers() {
    let file = beside("routes: [{ match: { prefix: / }, route: { cluster: site } }]");
    let cluster = |name: &str, port: &str| {
        format!(
            "load_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ \
             address: synapse, port_value: {port} }} }} }} }}] }}] }}"
        )
    };
    let empty = |name: &str| format!("load_assignment: {{ cluster_name: {name}, endpoints: [] }}");
    let file = file.with(&empty("homeserver"), &cluster("homeserver", "8008"));
    let with = |port: &str| {
        let site = cluster("site", port);
        file.with(
            "  clusters:\n",
            &format!("  clusters:\n    - name: site\n      {site}\n"),
        )
    };
    with("8008").finds(&[("unguarded-route", "cluster: site")]);
    with("8080").is_clean();
    // One proxy may stand before the homeserver and MAS.
    let off = "domains: [auth.example.org]\n                      typed_per_filter_config: { envoy.filters.http.wasm: { disabled: \
               true } }";
    with("8080")
        .with(&empty("mas"), &cluster("mas", "8008"))
        .with("domains: [auth.example.org]", off)
        .is_clean();
}

/// The module of a gateway, behind a matcher.
fn behind_matcher(matcher: &str) -> Variant {
    let wasm = "\"@type\": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";
    let old = format!("                      {wasm}\n                      config:\n");
    let kind =
        "\"@type\": type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher";
    let new = format!(
        "                     {kind}\n                     xds_matcher: {{ {matcher} }}\n                     extension_config:\n\
         {space}typed_config:\n{space} {wasm}\n{space} config:\n",
        space = " ".repeat(22)
    );
    Variant::of("unguarded-route/good-envoy-on.yaml")
        .with("                    disabled: true\n", "")
        .with(&old, &new)
}

const SKIP: &str = "{ action: { typed_config: { \"@type\": \
                    type.googleapis.com/envoy.extensions.filters.common.matcher.action.v3.SkipFilter } } }";

#[test]
fn a_matcher_may_keep_requests_without_tokens_from_the_module() {
    let by = |kind: &str, header: &str, text: &str| {
        let input = format!(
            "input: {{ typed_config: {{ \"@type\": type.googleapis.com/{kind}, header_name: \"{header}\" }} }}"
        );
        behind_matcher(&format!(
            "matcher_tree: {{ {input}, prefix_match_map: {{ map: {{ {text}: {SKIP} }} }} }}"
        ))
    };
    let header = "envoy.type.matcher.v3.HttpRequestHeaderMatchInput";
    let found = &[("unguarded-route", "xds_matcher")];
    by(header, "x-skip", "yes").finds(found);
    by(header, ":path", "/_matrix/client/v3/rooms").finds(found);
    by(header, ":path", "/_matrix/client/v3/devices/").finds(found);
    by(header, ":path", "/").finds(found);
    by(header, ":path", "/_matrix/federation/").is_clean();
    let source = "envoy.extensions.matching.common_inputs.network.v3.SourceIPInput";
    by(source, "", "10.0.0.1").notes(("unguarded-route", "xds_matcher"));
    behind_matcher(&format!("on_no_match: {SKIP}")).finds(found);
    behind_matcher("").is_clean();
    let asking = |path: &str, more: &str| {
        behind_matcher(&format!(
            "matcher_list: {{ matchers: [{{ predicate: {{ single_predicate: {{ input: {{ typed_config: {{ \"@type\": \
             type.googleapis.com/{header}, header_name: \":path\" }} }}, value_match: {{ {path}, {more} }} }} }}, on_match: {SKIP} }}] }}"
        ))
    };
    for path in ["prefix: /_MATRIX/client/", "exact: /_matrix/client/v3/SYNC"] {
        asking(path, "ignore_case: true").finds(found);
        asking(path, "ignore_case: false").is_clean();
    }
    asking("prefix: /_MATRIX/federation/", "ignore_case: true").is_clean();
}

#[test]
fn a_route_may_have_a_matcher_that_keeps_requests_from_the_module() {
    let config = "typed_per_filter_config: { envoy.filters.http.wasm: { \"@type\": \
                  type.googleapis.com/envoy.config.route.v3.FilterConfig, config: {} } }";
    let kind = "\"@type\": type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcherPerRoute";
    let matched = format!(
        "typed_per_filter_config: {{ envoy.filters.http.wasm: {{ {kind}, xds_matcher: {{ on_no_match: {SKIP} }} }} }}"
    );
    behind_matcher("")
        .with(config, &matched)
        .finds(&[("unguarded-route", "typed_per_filter_config")]);
}

/// Several filters write a header whose name is in their configuration.
#[test]
fn a_filter_may_name_the_header_that_it_writes() {
    let file = Variant::of("sync-timeout/good.yaml");
    let router = "                  - name: envoy.filters.http.router\n";
    let with = |kind: &str, config: &str| {
        let filter = format!(
            "                  - name: behind\n                    typed_config: {{ \"@type\": type.googleapis.com/{kind}, {config} }}\n"
        );
        file.with(router, &format!("{filter}{router}"))
    };
    let generic = "\"@type\": type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic";
    for (kind, config) in [
        (
            "api_key_auth.v3.ApiKeyAuth",
            "forwarding: { header: NAME, hide_credentials: true }",
        ),
        ("basic_auth.v3.BasicAuth", "forward_username_header: NAME"),
        (
            "gcp_authn.v3.GcpAuthnFilterConfig",
            "token_header: { name: NAME }",
        ),
        (
            "geoip.v3.Geoip",
            "provider: { typed_config: { common_provider_config: { geo_field_keys: { city: NAME } } } }",
        ),
        ("ip_tagging.v3.IPTagging", "ip_tag_header: { header: NAME }"),
        (
            "credential_injector.v3.CredentialInjector",
            &format!("credential: {{ name: user, typed_config: {{ {generic}, header: NAME }} }}"),
        ),
    ] {
        let kind = format!("envoy.extensions.filters.http.{kind}");
        with(&kind, &config.replace("NAME", "X-Matrix-User-Id"))
            .finds(&[("identity-header", "X-Matrix-User-Id")]);
        with(&kind, &config.replace("NAME", "x-other")).is_clean();
    }
}

/// Of credentials only those count that MAS looks at, on the way to MAS.
#[test]
fn an_injector_may_add_another_header_or_stand_where_nothing_leads_to_mas() {
    let file = Variant::of("sync-timeout/good.yaml");
    let router = "                  - name: envoy.filters.http.router\n";
    let with = |file: &Variant, header: &str| {
        let filter = format!(
            "                  - name: injector\n                    typed_config:\n                      \"@type\": \
             type.googleapis.com/envoy.extensions.filters.http.credential_injector.v3.CredentialInjector\n                      \
             credential: {{ name: c, typed_config: {{ \"@type\": \
             type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic{header} }} }}\n"
        );
        file.with(router, &format!("{filter}{router}"))
    };
    let found = [("injected-route", "name: injector")];
    with(&file, "").finds(&found);
    with(&file, ", header: Authorization").finds(&found);
    with(&file, ", header: x-api-key").is_clean();
    let elsewhere = Variant(file.0.replace(
        "route: { cluster: mas }",
        "direct_response: { status: 404 }",
    ));
    with(&elsewhere, "").is_clean();
}

/// A request without a token has no identity, and so an absent header is one that a client may name.
#[test]
fn what_writes_an_identity_header_is_told_wherever_it_stands() {
    let file = Variant::of("sync-timeout/good.yaml");
    let key = "header: { key: x-matrix-user-id";
    let added = format!("request_headers_to_add: [{{ {key}, value: a }} }}]");
    let found = &[("identity-header", "x-matrix-user-id")];
    let space = " ".repeat(26);
    let route = "timeout: 0s\n";
    file.with(route, &format!("{route}{space}{added}\n"))
        .finds(found);
    let weighted = format!(
        "weighted_clusters: {{ clusters: [{{ name: homeserver, weight: 1, {added} }}] }}\n"
    );
    file.with("cluster: homeserver\n", &weighted).finds(found);
    let off = format!(
        "typed_per_filter_config: {{ other: {{ mutations: {{ request_mutations: [{{ append: {{ {key}, value: a }} }} }}] }} }} }}"
    );
    let filter = "                  - name: envoy.filters.http.router\n";
    let other = "                  - { name: other, disabled: true }\n";
    let with_config = file.with(route, &format!("{route}                          {off}\n"));
    with_config.is_clean();
    with_config
        .with(filter, &format!("{other}{filter}"))
        .finds(found);
    let writing = |name: &str, state: &str| {
        format!(
            "                  - {{ name: {name}, {state}typed_config: {{ \"@type\": a/b.HeaderMutation, request_mutations: [{{ append: {{ {key}, \
             value: a }} }} }}] }} }}\n"
        )
    };
    let behind = |filters: &str| file.with(filter, &format!("{filters}{filter}"));
    behind(&writing("other", "")).finds(found);
    behind(&writing("other", "disabled: true, ")).is_clean();
    let before = writing("first", "") + &writing("second", "");
    let module = "                  - name: envoy.filters.http.wasm\n";
    file.with(module, &format!("{before}{module}")).is_clean();
    let cluster = "    - name: homeserver\n";
    let upstream = format!(
        "      typed_extension_protocol_options:\n        a: {{ http_filters: [{{ typed_config: {{ \"@type\": a/b, mutations: {{ \
         request_mutations: [{{ append: {{ {key}, value: a }} }} }}] }} }} }}] }}\n"
    );
    file.with(cluster, &format!("{cluster}{upstream}"))
        .finds(found);
    file.with(
        route,
        &format!(
            "{route}{space}{}\n",
            added.replace("value: a", "value: \"%REQ(x-matrix-user-id)%\"")
        ),
    )
    .is_clean();
    // A name of the user's own.
    let own = "server_name: example.org\n";
    let named =
        format!("{own}                            identity_headers: {{ user_id: x-edge-user }}\n");
    file.with(own, &named)
        .with(
            route,
            &format!(
                "{route}{space}{}\n",
                added.replace("x-matrix-user-id", "X-Edge-User")
            ),
        )
        .finds(&[("identity-header", "X-Edge-User")]);
}

/// A browser is told by CORS which headers of a response a page may read.
#[test]
fn headers_of_responses_are_no_headers_of_clients() {
    let file = Variant::of("filter-order/bad-lua.yaml");
    let lua = "extensions.filters.http.lua.v3.Lua\n";
    let is_of_cors = file
        .with(lua, "extensions.filters.http.cors.v3.Cors\n")
        .with("default_source_code:\n", "shadow:\n")
        .with(
            "inline_string: |",
            "expose_headers: x-matrix-user-id\n                        text: |",
        );
    let is_of_cors = is_of_cors.with("handle:headers():get(\"x-matrix-user-id\")", "");
    is_of_cors.is_clean();
    is_of_cors
        .with("cors.v3.Cors\n", "other.v3.Other\n")
        .finds(&[("filter-order", "x-matrix-user-id")]);
}

/// What a script says of a header without reading it decides nothing.
#[test]
fn a_script_may_take_headers_out_in_several_ways() {
    let file = Variant::of("filter-order/bad-lua.yaml");
    let with = |script: &str| {
        let indented = script.replace('\n', "\n                            ");
        file.with("handle:headers():get(\"x-matrix-user-id\")", &indented)
    };
    let removal = "handle:headers():remove(\"x-matrix-user-id\")";
    for quiet in [
        &format!("-- clients may not send x-matrix-user-id\n{removal}"),
        &format!("-- not get(n) of \"x-matrix-user-id\"\n{removal}"),
        &format!("--[[ no x-matrix-user-id\nget(\"x-matrix-user-id\") ]]\n{removal}"),
        &format!("--[==[ no ]] get(n) \"x-matrix-user-id\" ]==]\n{removal}"),
        "for _, n in ipairs({\"x-matrix-user-id\", \"x-matrix-device-id\"}) do handle:headers():remove(n) end",
        "local names = {'x-matrix-user-id'}\nif handle:headers():get(\":method\") == \"GET\" then for _, n in ipairs(names) do \
         handle:headers():remove(n) end end",
        "handle:headers():remove 'x-matrix-user-id'",
        "admit(handle:headers():get(chosen))\nhandle:headers():remove(\"x-matrix-user-id\")",
        "admit(handle:headers():get(chosen))\nhandle:headers():remove \"x-matrix-user-id\"",
        "handle:headers():replace(\"x-matrix-user-id\", \"nobody\")",
        "local target = handle:headers():get(\":path\")\nhandle:headers():remove(\"x-matrix-user-id\")",
    ] {
        with(quiet).is_clean();
    }
    for reading in [
        "local n = \"x-matrix-user-id\"\nhandle:headers():get(n)",
        "handle:headers():get \"x-matrix-user-id\"",
        "local h = \"--\"; handle:headers():get(\"x-matrix-user-id\")",
        "local h = [[--]]; handle:headers():get([[x-matrix-user-id]])",
        "local h = '\\'--'; handle:headers():getAtIndex(\"x-matrix-user-id\", 0)",
        "for k, v in pairs(handle:headers()) do if k == \"x-matrix-user-id\" then admit(v) end end",
        "handle:headers():remove(\"x-matrix-user-id\")\nlocal f = handle:headers().get\nf(handle:headers(), 'x-matrix-user-id')",
        "local x = require(\"other\")\nx.admit(handle, \"x-matrix-user-id\")",
        "local read = handle:headers()[\"get\"]\nread(handle:headers(), \"x-matrix-user-id\")",
        "handle:headers():get(\"x-matrix-user-id\" or \"\")",
        "local n = \"x-matrix-user-id\"\nhandle:headers():get(\"\" .. n)",
    ] {
        with(reading).finds(&[("filter-order", "function envoy_on_request")]);
    }
}

#[test]
fn a_filter_may_take_headers_from_an_answer_or_a_token() {
    let file = Variant::of("identity-header/bad-filters.yaml");
    let file = file
        .with("key: x-matrix-user-id", "key: x-user")
        .with("replace(\"x-matrix-user-id\"", "replace(\"x-user\"")
        .with("header_name: x-matrix-user-id", "header_name: x-user");
    let pattern = |text: &str| file.with("{ prefix: x-matrix- }", text);
    for taken in [
        "{ exact: X-Matrix-User-Id }",
        "{ suffix: -id }",
        "{ contains: user }",
        "{ safe_regex: { regex: x-.* } }",
    ] {
        pattern(taken).finds(&[("identity-header", taken)]);
    }
    for left in [
        "{ exact: x-user }",
        "{ prefix: x-user }",
        "{ suffix: -name }",
    ] {
        pattern(left).is_clean();
    }
    pattern("{ exact: x-user }")
        .with(
            "claim_to_headers:",
            "forward_payload_header: x-matrix-user-id, claim_to_headers:",
        )
        .finds(&[("identity-header", "x-matrix-user-id")]);
}

#[test]
fn a_service_may_have_headers_of_its_own() {
    let file = Variant::of("identity-header/bad-envoy-gateway.yaml");
    let own = "filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: X-Matrix-User-Id, value: \
               \"@root:example.org\" }] } }]";
    let filters = own.replace("set:", "add:");
    let backend = format!("backendRefs: [{{ name: synapse, port: 8008, {filters} }}]");
    let found = &[("identity-header", "X-Matrix-User-Id")];
    let file = file.with(own, "filters: []");
    file.is_clean();
    file.with("backendRefs: [{ name: synapse, port: 8008 }]", &backend)
        .finds(found);
    let mesh = "spec:\n  parentRefs: [{ kind: Service, name: synapse }]\n  rules:";
    file.with("backendRefs: [{ name: synapse, port: 8008 }]", &backend)
        .with("spec:\n  rules:", mesh)
        .is_clean();
}

/// At the listeners for Synapse and for MAS any caller would have the secret.
#[test]
fn a_route_adds_no_credential_to_requests_of_others() {
    let file = Variant::of("shared-cluster/good.yaml");
    let added = |name: &str, value: &str| {
        format!("request_headers_to_add: [{{ header: {{ key: {name}, value: \"{value}\" }} }}]")
    };
    let space = " ".repeat(26);
    let after = |route: &str, value: &str| {
        let new = format!("{route}\n{space}{}", added("Authorization", value));
        file.with(route, &new)
    };
    let found = &[("injected-route", "Authorization")];
    let secret = "Bearer %ENVIRONMENT(MAS_SECRET)%";
    let routes = [
        "route: { cluster: mas }",
        "route: { cluster: mas-for-synapse, timeout: 60s }",
        "route: { cluster: homeserver, timeout: 60s }",
    ];
    for route in routes {
        after(route, secret).finds(found);
        after(route, "Bearer %REQ(x-token)%").is_clean();
    }
    after("timeout: 0s", secret).is_clean();
    let other = format!("{}\n{space}{}", routes[0], added("x-other", secret));
    file.with(routes[0], &other).is_clean();
    let weighted = format!(
        "route: {{ weighted_clusters: {{ clusters: [{{ name: mas, weight: 1, {} }}] }} }}",
        added("Authorization", secret)
    );
    file.with(routes[0], &weighted).finds(found);
    let host = "domains: [auth.example.org]\n";
    let of_host = format!(
        "{host}                      {}\n",
        added("Authorization", secret)
    );
    file.with(host, &of_host).finds(found);
}

#[test]
fn a_listener_injects_no_credential() {
    let file = Variant::of("shared-cluster/good.yaml");
    let router = "                  - name: envoy.filters.http.router\n";
    let filter = |more: &str, kind: &str| {
        format!(
            "                  - {{ name: other, {more}typed_config: {{ \"@type\": a/{kind} }} }}\n{router}"
        )
    };
    let (before, rest) = file
        .0
        .split_once("    - name: introspection\n")
        .expect("a listener");
    let on = filter("", "b.CredentialInjector");
    let found = &[("injected-route", "name: other")];
    file.with(router, &on).finds(found);
    let listener = rest.replacen(router, &on, 1);
    Variant(format!("{before}    - name: introspection\n{listener}")).finds(found);
    let off = file.with(router, &filter("disabled: true, ", "b.CredentialInjector"));
    off.is_clean();
    let route = "route: { cluster: mas }\n";
    let turned = format!(
        "{route}                          typed_per_filter_config: {{ other: {{ config: {{}} }} }}\n"
    );
    off.with(route, &turned)
        .finds(&[("injected-route", "typed_per_filter_config")]);
    let mutation = "b.HeaderMutation, mutations: { request_mutations: [{ append: { header: { key: authorization, value: Basic a } } }] }";
    file.with(router, &filter("", mutation))
        .finds(&[("injected-route", "authorization")]);
}

/// An authority may come from elsewhere, and one without a check checks nothing.
#[test]
fn a_certificate_is_checked_by_what_a_context_has() {
    let file = Variant::of("server-certificate/good.yaml");
    let ca = "trusted_ca: { filename: /etc/ssl/certs/ca-certificates.crt }";
    let untrusted = format!("{ca}\n              trust_chain_verification: ACCEPT_UNTRUSTED");
    file.with(ca, &untrusted)
        .finds(&[("server-certificate", "trust_chain_verification")]);
    let found = &[("server-certificate", "common_tls_context")];
    file.with(ca, "trust_chain_verification: VERIFY_TRUST_CHAIN")
        .finds(found);
    for checked in ["verify_certificate_spki: [a]", "system_root_certs: {}"] {
        file.with(ca, checked).is_clean();
    }
    let bad = Variant::of("server-certificate/bad.yaml");
    let sds = "validation_context_sds_secret_config: { name: ca }";
    bad.with("alpn_protocols: [h2]", sds).is_clean();
    let combined = |inner: &str| {
        let new = format!(
            "combined_validation_context: {{ {inner}, validation_context_sds_secret_config: {{ name: ca }} }}"
        );
        bad.with("alpn_protocols: [h2]", &new)
    };
    combined("default_validation_context: {}").is_clean();
    combined("default_validation_context: { trust_chain_verification: 1 }")
        .finds(&[("server-certificate", "trust_chain_verification")]);
    let socket = "        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls";
    let around = socket.replace(
        "typed_config:",
        "typed_config:\n         \"@type\": a/b.ProxyProtocolUpstreamTransport\n         transport_socket:\n          name: tls\n          \
         typed_config:",
    );
    bad.with(
        socket,
        &around.replace("          \"@type\": type", "           \"@type\": type"),
    )
    .with("          sni", "           sni")
    .with(
        "          common_tls_context:",
        "           common_tls_context:",
    )
    .finds(found);
}

/// Whoever has a certificate of a public authority has one that it has signed.
#[test]
fn a_public_authority_needs_a_name() {
    let file = Variant::of("server-certificate/good.yaml");
    let ca = "trusted_ca: { filename: /etc/ssl/certs/ca-certificates.crt }";
    let name = "match_typed_subject_alt_names: [{ san_type: DNS, matcher: { exact: auth.matrix.localhost } }]";
    let nameless = file.with(name, "max_verify_depth: 3");
    for public in [
        ca,
        "trusted_ca: { filename: /etc/ssl/cert.pem }",
        "trusted_ca: { filename: /etc/pki/tls/certs/ca-bundle.crt }",
        "trusted_ca: { filename: /etc/ssl/certs/ }",
        "system_root_certs: {}",
    ] {
        let start = public.split(':').next().expect("a key");
        nameless
            .with(ca, public)
            .finds(&[("server-certificate", start)]);
    }
    for own in [
        "trusted_ca: { filename: /etc/envoy/tls/authority.pem }",
        "trusted_ca: { filename: /etc/ssl/certs/own.pem }",
        "trusted_ca: { inline_string: a }",
        "ca_certificate_provider_instance: { instance_name: a }",
    ] {
        nameless.with(ca, own).is_clean();
    }
    let found = &[("server-certificate", "trusted_ca")];
    let sni = "sni: auth.matrix.localhost";
    let by_sni = |value: &str| {
        let new = format!("{sni}\n          auto_sni_san_validation: {value}");
        nameless.with(sni, &new)
    };
    by_sni("true").is_clean();
    by_sni("false").finds(found);
    for pinned in [
        "verify_certificate_spki: [a]",
        "verify_certificate_hash: [a]",
        "custom_validator_config: { name: a }",
        "match_subject_alt_names: [{ exact: auth.matrix.localhost }]",
    ] {
        nameless.with("max_verify_depth: 3", pinned).is_clean();
    }
    for empty in [
        "match_typed_subject_alt_names: []",
        "match_typed_subject_alt_names: [{ san_type: DNS, matcher: { safe_regex: { regex: .* } } }]",
        "verify_certificate_hash: []",
    ] {
        nameless.with("max_verify_depth: 3", empty).finds(found);
    }
    // The name may come from the module's `authority`, or from elsewhere.
    let socket = "      transport_socket:\n";
    let options = |value: &str| {
        let more = format!(
            "      typed_extension_protocol_options: {{ a/b: {{ upstream_http_protocol_options: {{ auto_san_validation: {value} \
             }} }} }}\n"
        );
        nameless.with(socket, &format!("{more}{socket}"))
    };
    options("true").is_clean();
    options("false").finds(found);
    let bad = Variant::of("server-certificate/bad.yaml");
    let combined = |more: &str| {
        let new = format!(
            "combined_validation_context: {{ default_validation_context: {{ {ca} }}{more} }}"
        );
        bad.with("alpn_protocols: [h2]", &new)
    };
    combined("").finds(found);
    combined(", validation_context_sds_secret_config: { name: ca }").is_clean();
}

#[test]
fn a_policy_may_repeat_a_logout_in_several_ways() {
    let file = Variant::of("sync-timeout/good.yaml");
    let login = "route: { cluster: mas }\n                        - match: { prefix: / }\n                          route:\n";
    let with = |policy: &str| {
        file.with(
            login,
            &login.replace("cluster: mas }", &format!("cluster: mas, {policy} }}")),
        )
    };
    let retry = "retry_policy: { retry_on: retriable-status-codes, retriable_status_codes: [503] }";
    with(retry).finds(&[("retries", "retry_on")]);
    with("retry_policy: { retry_on: retriable-headers }").finds(&[("retries", "retry_on")]);
    with("retry_policy: { retry_on: refused-stream }").is_clean();
    with("hedge_policy: { hedge_on_per_try_timeout: true }").finds(&[("retries", "hedge_on")]);
    with("hedge_policy: { hedge_on_per_try_timeout: false }").is_clean();
}

#[test]
fn an_internal_address_is_that_of_one_caller() {
    let file = Variant::of("sync-timeout/good.yaml");
    let with = |address: &str, length: u8| {
        let stat = "                stat_prefix: gateway\n";
        let range = format!("{{ address_prefix: \"{address}\", prefix_len: {length} }}");
        let new = format!(
            "{stat}                internal_address_config: {{ cidr_ranges: [{range}] }}\n"
        );
        file.with(stat, &new)
    };
    for (address, length) in [
        ("0.0.0.0", 0),
        ("10.0.0.0", 8),
        ("203.0.113.1", 32),
        ("::", 0),
        ("fd00::", 64),
        ("2001:db8::1", 128),
        ("::ffff:10.0.0.0", 104),
    ] {
        with(address, length).finds(&[("retries", "address_prefix")]);
    }
    for (address, length) in [
        ("127.0.0.0", 8),
        ("10.1.2.3", 32),
        ("fd00::1", 128),
        ("::1", 128),
        ("::ffff:10.1.2.3", 128),
    ] {
        with(address, length).is_clean();
    }
}

#[test]
fn a_filter_of_the_module_is_not_optional() {
    let file = Variant::of("sync-timeout/good.yaml");
    let name = "                  - name: envoy.filters.http.wasm\n";
    let with = |value: &str| {
        let new = format!("{name}                    is_optional: {value}\n");
        file.with(name, &new)
    };
    with("true").finds(&[("fail-open", "is_optional")]);
    with("false").is_clean();
    let router = "                  - name: envoy.filters.http.router\n";
    let other = format!("                  - {{ name: other, is_optional: true }}\n{router}");
    file.with(router, &other).is_clean();
}

/// The addresses of `shared-cluster/good.yaml`, with a cluster that leads to one of its own.
#[test]
fn no_route_of_clients_leads_to_a_listener_of_the_same_envoy() {
    let file = Variant::of("shared-cluster/good.yaml");
    let lead = |host: &str, port: u16| {
        let cluster = format!(
            "  clusters:\n    - name: inside\n      load_assignment: {{ cluster_name: inside, endpoints: [{{ lb_endpoints: [{{ \
             endpoint: {{ address: {{ socket_address: {{ address: \"{host}\", port_value: {port} }} }} }} }}] }}] }}\n"
        );
        let route = "                        - match: { prefix: / }\n                          route: { cluster: mas }\n";
        let new = format!(
            "                        - match: {{ prefix: /inside }}\n                          route: {{ cluster: inside }}\n{route}"
        );
        file.with("  clusters:\n", &cluster).with(route, &new)
    };
    let found = &[("internal-address", "cluster: inside")];
    for host in ["127.0.0.1", "localhost", "::1"] {
        for port in [10001, 10002] {
            lead(host, port).finds(found);
        }
    }
    lead("127.0.0.1", 10003).is_clean();
    lead("mas", 10001).is_clean();
    let admin = "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 9901 } } }\nstatic_resources:\n";
    lead("127.0.0.1", 9901)
        .with("static_resources:\n", admin)
        .finds(&[("labels", "admin"), ("admin-interface", "cluster: inside")]);
    lead("127.0.0.1", 9901)
        .with("static_resources:\n", admin)
        .with(
            "address: 0.0.0.0, port_value: 10000",
            "address: 127.0.0.1, port_value: 10000",
        )
        .finds(&[("labels", "admin"), ("admin-interface", "cluster: inside")]);
    let tunnel = "    - name: tunnel\n      address: { socket_address: { address: 0.0.0.0, port_value: 7000 } }\n      filter_chains: [{ \
                  filters: [{ typed_config: { \"@type\": a/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, cluster: inside } \
                  }] }]\n  clusters:\n";
    let bare = lead("127.0.0.1", 10002)
        .with(
            "/inside }\n                          route: { cluster: inside }",
            "/a }\n                          route: { cluster: mas }",
        )
        .with("  clusters:\n", tunnel);
    bare.finds(found);
    bare.with(
        "address: 0.0.0.0, port_value: 7000",
        "address: 127.0.0.1, port_value: 7000",
    )
    .is_clean();
}

/// An Ingress and an HTTPRoute lead to the same Service, by port or to any.
#[test]
fn a_route_of_the_gateway_api_may_lead_past_envoy() {
    let file = Variant::of("unguarded-route/bad-ingress.yaml");
    let alone = file.until("apiVersion: networking.k8s.io/v1\n");
    let with = |spec: &str| {
        let route = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: matrix, namespace: matrix }}\nspec: {spec}\n"
        );
        Variant(alone.0.clone() + &route)
    };
    let rule = |path: &str, backend: &str| {
        with(&format!(
            "{{ rules: [{{ matches: [{{ path: {{ value: {path} }} }}], backendRefs: [{{ {backend} }}] }}] }}"
        ))
    };
    let found = &[("unguarded-route", "name: synapse")];
    rule("/_matrix", "name: synapse, port: 8008").finds(found);
    rule("/_matrix/federation", "name: synapse, port: 8008").is_clean();
    rule("/_matrix", "name: synapse, port: 9000").is_clean();
    rule("/_matrix", "name: matrix-edge-auth, port: 8008").is_clean();
    rule("/_matrix", "name: synapse, namespace: other, port: 8008").is_clean();
    let backend = "backendRefs: [{ name: synapse, port: 8008 }]";
    with(&format!("{{ rules: [{{ {backend} }}] }}")).finds(found);
    let method = |method: &str| {
        with(&format!(
            "{{ rules: [{{ matches: [{{ method: {method}, path: {{ value: /_matrix }} }}], {backend} }}] }}"
        ))
    };
    method("OPTIONS").is_clean();
    method("GET").finds(found);
    with(&format!(
        "{{ parentRefs: [{{ kind: Service, name: a }}], rules: [{{ {backend} }}] }}"
    ))
    .is_clean();
}

/// One server has several names.
#[test]
fn another_name_of_the_homeservers_address_leads_there() {
    let file = Variant::of("unguarded-route/bad-envoy-listener.yaml");
    let (start, end) = file.0.rsplit_once("cluster: homeserver").expect("a route");
    let led = Variant(format!("{start}cluster: other{end}"));
    let with = |own: &str, other: &str| {
        led.with(
            "load_assignment: { cluster_name: homeserver, endpoints: [] }",
            &format!("{own}\n    - name: other\n      {other}"),
        )
    };
    let at = |host: &str| {
        format!(
            "load_assignment: {{ endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: {host}, \
             port_value: 8008 }} }} }} }}] }}] }}"
        )
    };
    let found = &[("unguarded-route", "cluster: other")];
    for (one, other) in [
        ("127.0.0.1", "localhost"),
        ("localhost", "\"::1\""),
        ("127.0.0.1", "\"::ffff:127.0.0.1\""),
        ("synapse.matrix.svc", "synapse.matrix.svc.cluster.local"),
        ("synapse.matrix.svc.cluster.local.", "Synapse.Matrix"),
    ] {
        with(&at(one), &at(other)).finds(found);
    }
    with(&at("synapse.matrix.svc"), &at("synapse.other.svc")).is_clean();
    with(&at("10.0.0.1"), &at("localhost")).is_clean();
    let discovered = |name: &str| format!("eds_cluster_config: {{ service_name: {name} }}");
    with(&discovered("a"), &discovered("a")).finds(found);
    with(&discovered("a"), &discovered("b")).is_clean();
}

/// The table of endpoints tells which paths need no token.
#[test]
fn a_route_without_tokens_may_pass_by_the_policy() {
    let file = Variant::of("unguarded-route/good-federation.yaml");
    let file = Variant(file.0 + "      timeouts: { request: 0s }\n");
    let own = "path: { type: PathPrefix, value: /_matrix/federation }";
    let with = |kind: &str, path: &str| {
        file.with(own, &format!("path: {{ type: {kind}, value: '{path}' }}"))
    };
    let found = &[("unguarded-route", "name: synapse")];
    let regex = "RegularExpression";
    for (kind, path) in [
        ("Exact", "/"),
        ("Exact", "/health"),
        ("Exact", "/_matrix/client/versions"),
        ("PathPrefix", "/_matrix/client/versions"),
        ("PathPrefix", "/_matrix/static/"),
        ("PathPrefix", "/.well-known/matrix"),
        ("PathPrefix", "/_matrix/key"),
        (regex, r"/\.well-known/matrix/(client|server)"),
        (regex, "/.well-known/matrix/.*"),
        (regex, "/_matrix/federation/[|].*"),
        (regex, "^/_matrix/federation/v[12]/send/.*"),
        (regex, "/_matrix/federation/.*|^/health$"),
        (regex, "/_matrix/federation/.*|/_matrix/key/.*"),
        (regex, "/_matrix/(federation|key)/.*"),
        (
            regex,
            "/(_matrix/federation|_matrix/key|.well-known/matrix)/.*",
        ),
        (
            regex,
            "/_matrix/(federation/v[12]|key/v2)/(send|query)(/.*)?",
        ),
    ] {
        with(kind, path).is_clean();
    }
    for (kind, path) in [
        ("PathPrefix", "/"),
        ("PathPrefix", "/other"),
        ("PathPrefix", "/_matrix"),
        ("PathPrefix", "/_synapse"),
        ("PathPrefix", "/_matrix/client/v3/publicRooms"),
        ("PathPrefix", "/_matrix/client/v3/login"),
        ("PathPrefix", "/_matrix/client/v3/profile/@a:example.org"),
        ("Exact", "/_matrix/client/v3/sync"),
        ("Exact", "/_matrix/client/v3/publicRooms"),
        // Who may federate is told to those who are logged in.
        ("PathPrefix", "/_synapse/client"),
        (regex, "/_matrix/(federation|client)/.*"),
        (regex, "/_matrix/(federation|other)/.*"),
        (regex, "/_matrix/client/(r0|v3)/profile/[^/]+/[^/]+"),
        (regex, "/_matrix/client/.*"),
        (regex, "/.*"),
        (regex, "/_matrix/federation/.*|/_matrix/client/.*"),
        (regex, "/health|/_matrix/client/v3/rooms/[^/]+/send/.*"),
        (regex, "(/health|/_matrix/client/v3/sync)"),
        (regex, "/(health)?_matrix/client/v3/sync"),
        (regex, "/_synapse/client?.*"),
        (regex, r"/\w+/client/v3/sync"),
        (regex, "/.matrix/client/v3/sync"),
        (regex, "(?i)/health"),
        (regex, r"/.\well-known/matrix"),
    ] {
        with(kind, path).finds(found);
    }
    // A request for OPTIONS has no token.
    let method = |method: &str| {
        let path = "path: { type: PathPrefix, value: /_matrix }";
        file.with(own, &format!("method: {method}, {path}"))
    };
    method("OPTIONS").is_clean();
    method("GET").finds(found);
    // A match without a path is for every path.
    file.with(
        &format!("{{ {own} }}"),
        &format!("{{ {own} }}, {{ headers: [{{ name: a, value: b }}] }}"),
    )
    .finds(found);
}

/// The homeserver may be one of several by weight, and one route may lead back to this Envoy.
#[test]
fn a_gateway_before_weighted_clusters_is_before_the_homeserver() {
    let file = Variant::of("upgrades/bad.yaml");
    let found = &[("upgrades", "upgrade_configs")];
    file.finds(found);
    let back = "    - name: mas\n      load_assignment: { cluster_name: mas, endpoints: [{ lb_endpoints: [{ endpoint: { address: { \
                socket_address: { address: 127.0.0.1, port_value: 10000 } } } }] }] }\n";
    let own = file.with(
        "    - name: mas\n      load_assignment: { cluster_name: mas, endpoints: [] }\n",
        back,
    );
    own.finds(found);
    let (start, rest) = own.0.split_once("cluster: homeserver\n").expect("a route");
    let with = |clusters: &str| {
        Variant(format!(
            "{start}weighted_clusters: {{ clusters: [{clusters}] }}\n{rest}"
        ))
    };
    with("{ name: homeserver, weight: 1 }, { name: other, weight: 1 }").finds(found);
    // It only hears which sessions end.
    with("{ name: mas, weight: 1 }").is_clean();
    for address in ["\"::1\"", "localhost", "127.0.0.2"] {
        with("{ name: mas, weight: 1 }")
            .with(
                "address: 127.0.0.1, port_value: 10000",
                &format!("address: {address}, port_value: 10000"),
            )
            .is_clean();
    }
    with("{ name: mas, weight: 1 }")
        .with(
            "address: 127.0.0.1, port_value: 10000",
            "address: 10.0.0.1, port_value: 10000",
        )
        .finds(found);
}

/// A cluster that is made of others leads where they lead.
#[test]
fn an_aggregate_leads_to_the_homeserver_by_its_parts() {
    let file = Variant::of("unguarded-route/bad-envoy-listener.yaml");
    file.finds(&[("unguarded-route", "cluster: homeserver")]);
    let with = |parts: &str| {
        let aggregate = format!(
            "  clusters:\n    - name: both\n      cluster_type: {{ name: envoy.clusters.aggregate, typed_config: {{ \"@type\": \
             type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig, clusters: [{parts}] }} }}\n    - name: \
             outer\n      cluster_type: {{ name: envoy.clusters.aggregate, typed_config: {{ clusters: [both] }} }}\n"
        );
        file.with("  clusters:\n", &aggregate)
    };
    // The listener without the module stands last.
    let led = |file: &Variant, name: &str| {
        let (start, end) = file.0.rsplit_once("cluster: homeserver").expect("a route");
        Variant(format!("{start}cluster: {name}{end}"))
    };
    for name in ["both", "outer"] {
        let own = format!("cluster: {name}");
        led(&with("other, homeserver"), name).finds(&[("unguarded-route", &own)]);
        led(&with("other, another"), name).is_clean();
        // The module stands before the aggregate, and the listener leads to its part.
        let (start, end) = with("other, homeserver")
            .0
            .split_once("cluster: homeserver")
            .map(|(start, end)| (start.to_owned(), end.to_owned()))
            .expect("a route");
        Variant(format!("{start}cluster: {name}{end}"))
            .finds(&[("unguarded-route", "cluster: homeserver")]);
    }
}

/// Envoy Gateway obeys one policy of a target.
#[test]
fn a_second_policy_for_a_target_of_the_module_is_told() {
    let file = Variant::of("unguarded-route/good.yaml");
    let with = |spec: &str| {
        Variant(format!(
            "{}---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyExtensionPolicy\nmetadata: {{ name: second, namespace: \
             matrix }}\nspec: {{ {spec} }}\n",
            file.0
        ))
    };
    let own = file.0.lines().find(|line| line.contains("targetRefs:"));
    let own = own.expect("a target").trim();
    let found = &[("unguarded-route", "metadata: { name: second")];
    let lua = "lua: [{ type: Inline }]";
    with(&format!("{own}, {lua}")).finds(found);
    with(&format!("{}, {lua}", own.replace("name: ", "name: other-"))).is_clean();
}

/// A policy that is merged has its own lists in place of the module's.
#[test]
fn a_merged_policy_with_plugins_replaces_the_module() {
    let file = Variant::of("unguarded-route/good-merge.yaml");
    let (_, merged) = file.0.rsplit_once("mergeType:").expect("a merge");
    let has_plugins = merged.contains("wasm:");
    assert!(!has_plugins);
    for kind in ["StrategicMerge", "JSONMerge"] {
        file.with("mergeType: StrategicMerge", &format!("mergeType: {kind}"))
            .is_clean();
        let plugins = format!("mergeType: {kind}\n  wasm: [{{ name: other }}]");
        let (code, report) = file.with("mergeType: StrategicMerge", &plugins).report();
        assert_eq!(code, 1, "{report}");
    }
}

/// Which filters a patch changes is told by a number.
#[test]
fn a_patch_of_filters_is_noted() {
    let file = Variant::of("unguarded-route/good.yaml");
    let with = |operation: &str| {
        Variant(format!(
            "{}---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyPatchPolicy\nmetadata: {{ name: patch }}\nspec: {{ \
             jsonPatches: [{{ name: a, operation: {{ {operation} }} }}] }}\n",
            file.0
        ))
    };
    let of_filters = "path: /default_filter_chain/filters/0/typed_config/http_filters/0";
    let of_route = "path: /virtual_hosts/0/routes/0/typed_per_filter_config";
    let by_name = "jsonPath: \"..http_filters[0]\"";
    for operation in [
        format!("{of_filters}, op: remove"),
        format!("{of_filters}, op: replace, value: {{}}"),
        format!("{of_route}, op: add, value: {{}}"),
    ] {
        with(&operation).notes(("unguarded-route", "path: "));
    }
    with(&format!("{by_name}, op: remove")).notes(("unguarded-route", "jsonPath: "));
    for operation in [
        format!("{of_filters}, op: add, value: {{}}"),
        "path: /per_connection_buffer_limit_bytes, op: replace, value: 1".to_owned(),
    ] {
        let quiet = with(&operation);
        let (_, report) = quiet.report();
        let notes = quiet.told(&report, "notes");
        assert!(
            notes.iter().all(|(rule, _)| rule != "unguarded-route"),
            "{notes:?}"
        );
    }
}

/// Another Service has the same pods, or is another name of the first.
#[test]
fn an_ingress_may_lead_to_the_homeserver_by_another_service() {
    let file = Variant::of("unguarded-route/bad-ingress.yaml");
    let with = |spec: &str, namespace: &str| {
        let service = format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: old, namespace: {namespace} }}\nspec: {spec}\n"
        );
        let ingress = file.with(
            "service: { name: synapse, port: { number: 8008 } }",
            "service: { name: old, port: { number: 80 } }",
        );
        Variant(ingress.0.replace("#          ^ unguarded-route", "") + &service)
    };
    let found = &[("unguarded-route", "name: old")];
    let named = |host: &str| {
        with(
            &format!("{{ type: ExternalName, externalName: {host} }}"),
            "matrix",
        )
        .with("number: 80 }", "number: 8008 }")
    };
    named("synapse.matrix.svc.cluster.local").finds(found);
    named("synapse.other.svc.cluster.local").is_clean();
    named("web.matrix.svc.cluster.local").is_clean();
    named("synapse.matrix.svc.cluster.local")
        .with("number: 8008 }", "number: 9000 }")
        .is_clean();

    // The Service that Envoy knows.
    let own = "---\napiVersion: v1\nkind: Service\nmetadata: { name: synapse, namespace: matrix }\nspec: { selector: { app: \
               synapse }, ports: [{ port: 8008, targetPort: http }] }\n";
    let both = |spec: &str, namespace: &str| Variant(with(spec, namespace).0 + own);
    let same = "{ selector: { app: synapse }, ports: [{ port: 80, targetPort: http }] }";
    both(same, "matrix").finds(found);
    both(same, "other").is_clean();
    // Pods of another namespace may have the same labels.
    both(same, "other")
        .with(
            "metadata: { name: matrix, namespace: matrix }",
            "metadata: { name: matrix, namespace: other }",
        )
        .is_clean();
    both(
        &same.replace("targetPort: http", "targetPort: metrics"),
        "matrix",
    )
    .is_clean();
    both(&same.replace("port: 80,", "port: 81,"), "matrix").is_clean();
    both(&same.replace("app: synapse", "app: web"), "matrix").is_clean();
    both(
        "{ selector: {}, ports: [{ port: 80, targetPort: http }] }",
        "matrix",
    )
    .is_clean();
    // Other labels of the same pods.
    let labels = same.replace("app: synapse", "part: main");
    both(&labels, "matrix").is_clean();
    let pods = "---\napiVersion: apps/v1\nkind: StatefulSet\nmetadata: { name: synapse, namespace: matrix }\nspec: { template: { \
                metadata: { labels: { app: synapse, part: main } }, spec: { containers: [] } } }\n";
    Variant(both(&labels, "matrix").0 + pods).finds(found);
    Variant(both(&labels, "matrix").0 + &pods.replace("app: synapse", "app: web")).is_clean();
    let none = both(
        "{ selector: {}, ports: [{ port: 80, targetPort: http }] }",
        "matrix",
    );
    Variant(none.0 + pods).is_clean();
    // One names the port of the pods, and the other has its number.
    let number = same.replace("targetPort: http", "targetPort: 8008");
    let port = "---\napiVersion: v1\nkind: Pod\nmetadata: { name: synapse, namespace: matrix }\nspec: { containers: [{ name: synapse, \
                ports: [{ name: http, containerPort: 8008 }] }] }\n";
    both(&number, "matrix").is_clean();
    Variant(both(&number, "matrix").0 + port).finds(found);
    Variant(both(&labels, "matrix").0 + &pods.replace("part: main", "part: worker")).is_clean();
    Variant(both(&labels, "matrix").0 + &pods.replace("namespace: matrix", "namespace: other"))
        .is_clean();
}

/// A folder may have a listener in shadow mode that no Service leads to any more.
#[test]
fn an_ingress_is_an_error_where_services_lead_to_an_enforcing_listener() {
    let file = Variant::of("unguarded-route/bad-ingress.yaml");
    let found = &[("unguarded-route", "name: synapse")];
    let shadow = file.with(
        "role: gateway\n",
        "role: gateway\n                            mode: shadow\n",
    );
    let service = |target: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: edge, namespace: matrix }}\nspec: {{ ports: [{{ port: 80, \
             targetPort: {target} }}] }}\n"
        )
    };
    let and = |file: &Variant, more: &str| Variant(format!("{}{more}", file.0));
    shadow.is_clean();
    shadow.notes(found[0]);
    and(&shadow, &service("10000")).is_clean();
    // A second gateway, with its own port and mode.
    let (start, rest) = file
        .0
        .split_once("    - name: gateway\n")
        .expect("a listener");
    let (listener, end) = rest.split_once("  clusters:\n").expect("clusters");
    let second = listener
        .replace("port_value: 10000", "port_value: 10003")
        .replace(
            "role: gateway\n",
            "role: gateway\n                            mode: shadow\n",
        )
        .replace(" &capabilities", "")
        .replace(" &vm", "")
        .replace(" &mas", "")
        .replace(" &cache", "");
    let both = Variant(format!(
        "{start}    - name: gateway\n{listener}    - name: second\n{second}  clusters:\n{end}"
    ));
    both.is_clean();
    and(&both, &service("10000")).finds(found);
    and(&both, &service("10003")).is_clean();
    let named = "---\napiVersion: v1\nkind: Pod\nmetadata: { name: envoy, namespace: matrix }\nspec: { containers: [{ name: envoy, \
                 ports: [{ name: enforce, containerPort: 10000 }] }] }\n";
    and(&and(&both, &service("enforce")), named).finds(found);
}

/// Bytes that are handed on, and copies, come to the server as well.
#[test]
fn a_route_of_bytes_or_a_copy_may_lead_past_envoy() {
    let file = Variant::of("unguarded-route/bad-ingress.yaml");
    let alone = file.until("apiVersion: networking.k8s.io/v1\n");
    let with = |kind: &str, spec: &str| {
        Variant(format!(
            "{}apiVersion: a/v1\nkind: {kind}\nmetadata: {{ name: matrix, namespace: matrix }}\nspec: {spec}\n",
            alone.0
        ))
    };
    let found = &[("unguarded-route", "name: synapse")];
    let own = "{ name: synapse, port: 8008 }";
    for kind in ["TCPRoute", "TLSRoute"] {
        with(kind, &format!("{{ rules: [{{ backendRefs: [{own}] }}] }}")).finds(found);
        with(
            kind,
            "{ rules: [{ backendRefs: [{ name: edge, port: 8008 }] }] }",
        )
        .is_clean();
    }
    let tcp = |service: &str| {
        with(
            "IngressRouteTCP",
            &format!("{{ routes: [{{ match: HostSNI(`*`), services: [{service}] }}] }}"),
        )
    };
    tcp(own).finds(found);
    tcp("{ name: edge, port: 8008 }").is_clean();
    let copied = |service: &str| {
        with(
            "HTTPRoute",
            &format!(
                "{{ rules: [{{ backendRefs: [{{ name: edge, port: 80 }}], filters: [{{ type: RequestMirror, requestMirror: {{ \
                 backendRef: {service} }} }}] }}] }}"
            ),
        )
    };
    copied(own).finds(found);
    copied("{ name: edge, port: 8008 }").is_clean();
    // No request goes there.
    with(
        "HTTPRoute",
        "{ rules: [{ backendRefs: [{ name: synapse, port: 8008, weight: 0 }] }] }",
    )
    .is_clean();
}

/// `pathType` says whether a path may be an expression.
#[test]
fn the_path_of_an_ingress_is_taken_as_it_is_written() {
    let file = Variant::of("unguarded-route/bad-ingress.yaml");
    let found = &[("unguarded-route", "name: synapse")];
    let with = |path: &str, kind: &str| {
        file.with(
            "path: /_matrix\n            pathType: Prefix",
            &format!("path: {path}\n            pathType: {kind}"),
        )
    };
    with("/.well-known/matrix", "Prefix").is_clean();
    with("/_matrix/client/versions", "Exact").is_clean();
    with("/_matrix", "Exact").is_clean();
    with("/", "Prefix").finds(found);
    with("/_matrix/(client|federation)", "ImplementationSpecific").finds(found);
    with("/\\.well-known/(.*)", "ImplementationSpecific").is_clean();
    // It need not be for the end of a path.
    with("/_matrix/(federation|key)", "ImplementationSpecific").is_clean();
    with("/_matrix/(federation|key)/.*", "ImplementationSpecific").is_clean();
    with(
        "/(_matrix/federation|_matrix/key|.well-known/matrix)",
        "ImplementationSpecific",
    )
    .is_clean();
    with(
        "/_matrix/(federation|client/v3/sy)",
        "ImplementationSpecific",
    )
    .finds(found);
    with("/_synapse/admin/(new|newer)/", "ImplementationSpecific").finds(found);
    with("/_matrix/client/v3/profile", "Prefix").finds(found);
    with("/_matrix/client/v3/publicRooms", "Exact").finds(found);

    let named = |name: &str| {
        let service = "---\napiVersion: v1\nkind: Service\nmetadata: { name: synapse, namespace: matrix }\nspec: { ports: [{ name: \
                       http, port: 8008 }, { name: metrics, port: 9090 }] }\n";
        let file = file.with("number: 8008 }", &format!("name: {name} }}"));
        Variant(file.0.replace("#          ^ unguarded-route", "") + service)
    };
    named("http").finds(found);
    named("metrics").is_clean();
    // Nobody says which port that is.
    named("other").finds(found);
}

/// A VirtualService of a gateway without the module may lead to the server that Envoy stands before.
#[test]
fn a_route_of_istio_may_lead_past_envoy() {
    let file = Variant::of("unguarded-route/bad-ingress.yaml");
    let alone = file.until("apiVersion: networking.k8s.io/v1\n");
    let with = |gateways: &str, spec: &str| {
        Variant(format!(
            "{}apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: matrix, namespace: matrix }}\nspec: {{ \
             gateways: [{gateways}], {spec} }}\n",
            alone.0
        ))
    };
    let found = &[("unguarded-route", "host: synapse")];
    let to = |host: &str| {
        format!("route: [{{ destination: {{ host: {host}, port: {{ number: 8008 }} }} }}]")
    };
    let http = |uri: &str, host: &str| {
        with(
            "public",
            &format!(
                "http: [{{ match: [{{ uri: {{ {uri} }} }}], {} }}]",
                to(host)
            ),
        )
    };
    for host in ["synapse", "synapse.matrix.svc.cluster.local"] {
        http("prefix: /_matrix", host).finds(found);
        with("public", &format!("http: [{{ {} }}]", to(host))).finds(found);
        with("mesh, public", &format!("http: [{{ {} }}]", to(host))).finds(found);
        with("mesh", &format!("http: [{{ {} }}]", to(host))).is_clean();
        for kind in ["tls", "tcp"] {
            with("public", &format!("{kind}: [{{ {} }}]", to(host))).finds(found);
            with("mesh", &format!("{kind}: [{{ {} }}]", to(host))).is_clean();
        }
    }
    for uri in [
        "exact: /_matrix/client/v3/sync",
        "regex: /_matrix/client/.*",
        "regex: /_matrix/(federation|client)/.*",
        "exact: '/_matrix/client/v3/profile/@a:example.org/displayname'",
    ] {
        http(uri, "synapse").finds(found);
    }
    for uri in [
        "prefix: /_matrix/federation",
        "exact: /_matrix",
        "regex: /_matrix/key/.*",
        "regex: /_matrix/(federation|key)/.*",
        "regex: /_matrix/(federation|client)",
    ] {
        http(uri, "synapse").is_clean();
    }
    http("prefix: /_matrix", "edge").is_clean();
    http("prefix: /_matrix", "synapse.other.svc.cluster.local").is_clean();
    let copies = |copy: &str| with("public", &format!("http: [{{ {}, {copy} }}]", to("edge")));
    copies("mirror: { host: synapse, port: { number: 8008 } }").finds(found);
    copies("mirrors: [{ destination: { host: synapse, port: { number: 8008 } } }]").finds(found);
    copies("mirror: { host: web }").is_clean();
    let unused = to("edge").replace(
        "route: [",
        "route: [{ weight: 0, destination: { host: synapse, port: { number: 8008 } } }, ",
    );
    with("public", &format!("http: [{{ {unused} }}]")).is_clean();
    let any_case = |uri: &str, ignores: &str| {
        let matched = format!("match: [{{ uri: {{ {uri} }}, ignoreUriCase: {ignores} }}]");
        with(
            "public",
            &format!("http: [{{ {matched}, {} }}]", to("synapse")),
        )
    };
    for uri in [
        "prefix: /_MATRIX/client",
        "exact: /_matrix/client/v3/SYNC",
        "exact: /_SYNAPSE/admin/v1/new",
    ] {
        any_case(uri, "true").finds(found);
        any_case(uri, "false").is_clean();
    }
    any_case("prefix: /_MATRIX/federation", "true").is_clean();
    any_case("exact: /_MATRIX/client/versions", "true").is_clean();
    any_case("regex: /_MATRIX/client/.*", "true").is_clean();
    http(r"regex: '/_matrix/client/\pL+/.*'", "synapse").finds(found);
    http(r"regex: '/_matrix/federation/\pL+/.*'", "synapse").is_clean();
    let unread = "regex: '/_matrix/client/(v3'";
    http(unread, "synapse").is_clean();
    http(unread, "synapse").notes(("unguarded-route", "host: synapse"));
    http(unread, "edge").notes_nothing_of("unguarded-route");
    let method = |method: &str| {
        let matched = format!("match: [{{ method: {{ {method} }} }}]");
        with(
            "public",
            &format!("http: [{{ {matched}, {} }}]", to("synapse")),
        )
    };
    method("exact: OPTIONS").is_clean();
    method("exact: GET").finds(found);
    method("prefix: OPTIONS").finds(found);
    let rewritten = |uri: &str, rewrite: &str| {
        let matched = format!("match: [{{ uri: {{ {uri} }} }}], rewrite: {{ {rewrite} }}");
        with(
            "public",
            &format!("http: [{{ {matched}, {} }}]", to("synapse")),
        )
    };
    for (uri, rewrite) in [
        ("prefix: /api", "uri: /_matrix/client"),
        ("prefix: /api", "uri: /"),
        ("exact: /api", "uri: /_matrix/client/v3/sync"),
    ] {
        rewritten(uri, rewrite).finds(found);
    }
    for (uri, rewrite) in [
        ("prefix: /api", "uri: /_matrix/federation"),
        ("prefix: /api", "authority: example.org"),
        ("exact: /api", "uri: /"),
    ] {
        rewritten(uri, rewrite).is_clean();
    }
}

/// With Istio the routes of its own gateway say which Service is the homeserver.
#[test]
fn an_ingress_may_lead_past_istio() {
    let file = Variant::of("unguarded-route/good-istio-federation.yaml");
    file.is_clean();
    let with = |kind: &str, spec: &str| {
        let of = |path: &str, host: &str| {
            format!(
                "{{ match: [{{ uri: {{ {path} }} }}], route: [{{ destination: {{ host: {host}, port: {{ number: 8008 }} }} }}] }}"
            )
        };
        Variant(format!(
            "{}---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: homeserver, namespace: matrix }}\n\
             spec: {{ hosts: [matrix.example.org], gateways: [public], http: [{}, {}] }}\n---\napiVersion: a/v1\nkind: {kind}\n\
             metadata: {{ name: other, namespace: matrix }}\nspec: {spec}\n",
            file.0,
            of("prefix: /_matrix", "synapse.matrix.svc.cluster.local"),
            of("prefix: /", "web"),
        ))
    };
    let ingress = |name: &str| {
        with(
            "Ingress",
            &format!(
                "{{ defaultBackend: {{ service: {{ name: {name}, port: {{ number: 8008 }} }} }} }}"
            ),
        )
    };
    ingress("synapse").finds(&[("unguarded-route", "name: synapse")]);
    ingress("web").is_clean();
    let bytes = |host: &str| {
        with(
            "VirtualService",
            &format!(
                "{{ gateways: [other], tls: [{{ route: [{{ destination: {{ host: {host}, port: {{ number: 8008 }} }} }}] }}] }}"
            ),
        )
    };
    bytes("synapse").finds(&[("unguarded-route", "host: synapse")]);
    bytes("web").is_clean();
}

/// Traefik has resources of its own.
#[test]
fn a_route_of_traefik_may_lead_past_envoy() {
    let file = Variant::of("unguarded-route/bad-ingress.yaml");
    let alone = file.until("apiVersion: networking.k8s.io/v1\n");
    let with = |matcher: &str, service: &str| {
        let route = format!(
            "apiVersion: traefik.io/v1alpha1\nkind: IngressRoute\nmetadata: {{ name: matrix, namespace: matrix }}\nspec:\n  \
             routes:\n    - match: {matcher}\n      services: [{{ {service} }}]\n"
        );
        Variant(alone.0.clone() + &route)
    };
    let own = "name: synapse, port: 8008";
    let found = &[("unguarded-route", "name: synapse")];
    for matcher in [
        "Host(`example.org`)",
        "Host(`example.org`) && PathPrefix(`/_matrix`)",
        "Host(`example.org`) && (PathPrefix(`/_matrix/federation`) || PathPrefix(`/_matrix/client`))",
        "Path(`/a`, `/_matrix/client/v3/sync`)",
        "PathRegexp(`^/_matrix/(client|media)`)",
        r"PathRegexp(`^/_matrix/client/\pL+`)",
        "PathPrefix(`/_matrix`) && Method(`GET`)",
        "PathPrefix(`/_matrix`) && !Method(`OPTIONS`)",
        "PathRegexp(`/(sync|messages)$`)",
        "Host(`example.org`) && !PathPrefix(`/_matrix/federation`)",
    ] {
        with(matcher, own).finds(found);
    }
    with("PathPrefix(`/`)", "name: synapse, port: 8008, weight: 0").is_clean();
    for matcher in [
        "PathPrefix(`/_matrix`) && Method(`OPTIONS`)",
        "PathPrefix(`/_matrix/federation`) || PathPrefix(`/_matrix/key`)",
        "Path(`/_matrix/client/versions`)",
        "PathPrefix(`/_matrix/federation`) && !PathPrefix(`/_matrix/client`)",
        "PathRegexp(`^/_matrix/federation/v[12]/`)",
        "PathRegexp(`^/_matrix/(federation|key)/`)",
    ] {
        with(matcher, own).is_clean();
    }
    with("PathPrefix(`/`)", "name: edge, port: 8008").is_clean();
    with("PathPrefix(`/`)", "name: synapse, port: 9000").is_clean();
    with(
        "PathPrefix(`/`)",
        "name: synapse, namespace: other, port: 8008",
    )
    .is_clean();
    with("PathPrefix(`/`)", "name: synapse").finds(found);
}

#[test]
fn a_policy_with_many_networks_may_let_every_address_in() {
    let file = Variant::of("internal-address/bad-policy-everyone.yaml");
    let all = "[{ ipBlock: { cidr: 0.0.0.0/0 } }]";
    let one = "{ ipBlock: { cidr: 8.0.0.0/5 } }";
    file.with(all, &format!("[{one}]")).is_clean();
    file.with(
        all,
        &format!("[{one}, {{ ipBlock: {{ cidr: 16.0.0.0/5 }} }}]"),
    )
    .finds(&[("internal-address", "ipBlock")]);
}

/// A matcher that runs the module by default may do something else before that.
#[test]
fn a_matcher_may_run_another_filter_than_the_module() {
    let file = Variant::of("unguarded-route/good-envoy-composite.yaml");
    let input = |path: &str| {
        format!(
            "matcher_tree: {{ input: {{ typed_config: {{ \"@type\": a/b, header_name: \":path\" }} }}, prefix_match_map: {{ map: {{ \
             {path}: {{ action: {{ typed_config: {{ \"@type\": a/c }} }} }} }} }} }}"
        )
    };
    let with = |path: &str| {
        let default = "                        on_no_match:\n";
        let new = format!("                        {}\n{default}", input(path));
        file.with(default, &new)
    };
    with("/_matrix/federation/").is_clean();
    with("/_matrix/client/").finds(&[("unguarded-route", "xds_matcher")]);
}

/// What asks another service than MAS may have a credential of its own.
#[test]
fn a_listener_without_the_module_gives_no_credential_to_mas() {
    let injector = "http_filters: [{ name: other, typed_config: { \"@type\": a/b.CredentialInjector } }, { name: \
                    envoy.filters.http.router }]";
    let lead = |cluster: &str| {
        beside(&format!(
            "routes: [{{ match: {{ prefix: / }}, route: {{ cluster: {cluster} }} }}]"
        ))
        .with(
            "http_filters: [{ name: envoy.filters.http.router }]",
            injector,
        )
    };
    lead("mas").finds(&[("injected-route", "name: other")]);
    lead("elsewhere").is_clean();
}

#[test]
fn a_header_may_name_the_cluster_of_the_homeserver() {
    let naming = "routes: [{ match: { prefix: / }, route: { cluster_header: x-to } }]";
    let shared = ("shared-cluster", "cluster_header");
    let bare = beside(naming);
    bare.finds(&[shared, ("unguarded-route", "cluster_header")]);
    bare.with(
        "{ prefix: / }, route: { cluster_header",
        "{ prefix: /_matrix/key/ }, route: { cluster_header",
    )
    .finds(&[shared]);
    let off = "typed_per_filter_config: { envoy.filters.http.wasm: { disabled: true } }";
    let route = "                        - match: { safe_regex: { regex: '/_matrix/client/v3/(login|logout)' } }\n";
    let with = |more: &str| {
        let old = Variant::of("unguarded-route/bad-envoy-regex.yaml");
        old.with("/_matrix/(media|client/v1/media)/.*", "/_matrix/federation/.*").with(
            route,
            &format!(
                "                        - {{ match: {{ prefix: /_matrix/client/v3/keys/ }}, route: {{ cluster_header: \
                 x-to, timeout: 0s }}{more} }}\n{route}"
            ),
        )
    };
    with("").finds(&[shared]);
    with(&format!(", {off}")).finds(&[shared, ("unguarded-route", "typed_per_filter_config")]);
}

#[test]
fn a_header_may_name_the_cluster_of_the_admin_interface() {
    let file = Variant::of("unguarded-route/good-envoy-on.yaml");
    let route =
        "                        - match: { prefix: / }\n                          route:\n";
    let naming = "                        - match: { prefix: /inside }\n                          route: { cluster_header: x-to, \
                  timeout: 0s }\n";
    let clusters = "  clusters:\n";
    let admin = |port: u16| {
        format!(
            "{clusters}    - name: admin\n      load_assignment: {{ cluster_name: admin, endpoints: [{{ lb_endpoints: [\
             {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}] }}\n"
        )
    };
    let interface = "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 9901 } } }\nstatic_resources:\n";
    let with = |port: u16| {
        file.with(route, &format!("{naming}{route}"))
            .with(clusters, &admin(port))
            .with("static_resources:\n", interface)
    };
    let shared = ("shared-cluster", "cluster_header");
    let labels = ("labels", "admin");
    with(9901).finds(&[labels, ("admin-interface", "cluster_header"), shared]);
    with(9902).finds(&[labels, shared]);
}

#[test]
fn a_client_names_no_server() {
    let file = Variant::of("unguarded-route/good-envoy-on.yaml");
    let clusters = "  clusters:\n";
    let route = "                          route: { cluster: mas }\n";
    let open = route.replace("cluster: mas", "cluster: open");
    let with = |more: &str| {
        let new = format!("{clusters}    - name: open\n      {more}\n");
        file.with(clusters, &new).with(route, &open)
    };
    let found = &[("internal-address", "cluster: open")];
    with("original_dst_lb_config: { use_http_header: true }").finds(found);
    with("original_dst_lb_config: { use_http_header: false }").is_clean();
    let kind = "\"@type\": a/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig";
    with(&format!(
        "cluster_type: {{ name: open, typed_config: {{ {kind} }} }}"
    ))
    .finds(found);
}

/// On the homeserver's host the default route may lead to another server than `/sync` does, and no logout takes it.
#[test]
fn a_route_of_the_homeservers_host_is_one_to_mas_if_logins_go_there() {
    let file = Variant::of("sync-timeout/good.yaml");
    let all = "                        - match: { prefix: / }\n                          route:\n                            cluster: \
               homeserver\n                            timeout: 0s\n";
    let retry = "retry_policy: { retry_on: 5xx }";
    let with = |routes: &[&str]| {
        let routes = routes.iter().map(|route| {
            let space = " ".repeat(24);
            format!("{space}- {route}\n")
        });
        file.with(all, &routes.collect::<String>())
    };
    let sync =
        "{ match: { prefix: /_matrix/client/v3/sync }, route: { cluster: sync, timeout: 0s } }";
    let slide = "{ match: { prefix: /_matrix/client/unstable/org.matrix.simplified_msc3575/sync }, route: { cluster: sync, timeout: \
                 0s } }";
    let rest = format!(
        "{{ match: {{ prefix: / }}, route: {{ cluster: homeserver, timeout: 0s, {retry} }} }}"
    );
    with(&[sync, slide, &rest]).is_clean();
    let matrix = "{ match: { prefix: /_matrix }, route: { cluster: homeserver, timeout: 0s } }";
    let web = format!(
        "{{ match: {{ prefix: / }}, route: {{ cluster: web, {retry} }}, request_headers_to_add: [{{ header: {{ key: \
         authorization, value: Basic a }} }}] }}"
    );
    with(&[matrix, &web]).is_clean();
    // MAS may serve its own paths there.
    let of_mas = web.replace("cluster: web", "cluster: mas");
    with(&[matrix, &of_mas]).finds(&[("retries", "retry_on"), ("injected-route", "authorization")]);
    let oauth = web
        .replace("prefix: /", "prefix: /oauth2/")
        .replace("cluster: web", "cluster: oauth");
    with(&[&oauth, matrix]).finds(&[("retries", "retry_on"), ("injected-route", "authorization")]);
}

/// Without a name, a path or the provisioning role nothing says whose a host is, unless all lead to one server.
#[test]
fn a_host_is_the_homeservers_by_what_says_so() {
    let file = Variant::of("sync-timeout/good-web-client.yaml");
    let logins = "                        - match: { safe_regex: { regex: '/_matrix/client/v3/(login|logout)' } }\n                          \
                  route: { cluster: mas }\n";
    let nameless = file
        .with(logins, "")
        .with("domains: [\"*\"]", "domains: [hs.test]")
        .with("timeout: 0s", "timeout: 20s");
    nameless.is_clean();
    nameless.notes(("sync-timeout", "domains: [chat"));
    let own = [("sync-timeout", "timeout: 20s")];
    for host in ["matrix.test", "example.org"] {
        nameless
            .with("domains: [hs.test]", &format!("domains: [{host}]"))
            .finds(&own);
    }
    nameless
        .with("cluster: web", "cluster: homeserver, timeout: 0s")
        .finds(&own);
    nameless
        .with(
            "prefix: / }\n                          route:\n",
            "prefix: /_matrix }\n                          route:\n",
        )
        .finds(&own);
    // The website of the `server_name` is another one.
    file.with("domains: [chat.example.org]", "domains: [example.org]")
        .is_clean();
    // The provisioning role leads to the homeserver.
    let full = Variant::of("shared-cluster/good.yaml");
    let host = "domains: [\"*\"]\n";
    let logins = "                        - match: { safe_regex: { regex: '/_matrix/client/v3/(login|logout)' } }\n                          \
                  route: { cluster: mas }\n";
    let full = full.with(logins, "");
    let web = "                    - name: web\n                      domains: [chat.test]\n                      routes: [{ match: { \
               prefix: / }, route: { cluster: web } }]\n                    - name: matrix\n";
    full.with("                    - name: matrix\n", web)
        .with(host, "domains: [hs.test]\n")
        .is_clean();
    full.with("                    - name: matrix\n", web)
        .with(host, "domains: [hs.test]\n")
        .with("timeout: 0s", "timeout: 20s")
        .finds(&own);
}

/// A route that asks for more than the path leaves requests to those behind it, and one of the mesh is for no client.
#[test]
fn a_route_of_istio_leaves_requests_to_those_behind_it() {
    let file = Variant::of("sync-timeout/bad-istio.yaml");
    let limit = [("sync-timeout", "timeout: 15s")];
    let before = |route: &str| file.with("  http:\n", &format!("  http:\n    - {route}\n"));
    let other = "route: [{ destination: { host: synapse } }]";
    for conditions in [
        "port: 80",
        "gateways: [mesh]",
        "gateways: [other]",
        "headers: { a: { exact: b } }",
        "sourceLabels: { a: b }",
    ] {
        before(&format!("{{ match: [{{ {conditions} }}], {other} }}")).finds(&limit);
    }
    for all in [
        "gateways: [matrix]",
        "gateways: [matrix, mesh]",
        "name: a",
        "uri: { prefix: / }",
    ] {
        before(&format!("{{ match: [{{ {all} }}], {other} }}")).is_clean();
    }
    before("{ match: [{ port: 80 }], redirect: { scheme: https } }").finds(&limit);
    before(&format!(
        "{{ match: [{{ gateways: [mesh] }}], {other}, timeout: 10s }}"
    ))
    .finds(&limit);
    let own = format!("{{ match: [{{ gateways: [matrix] }}], {other}, timeout: 10s }}");
    before(&own).finds(&[("sync-timeout", "timeout: 10s")]);
    // Whom it is for.
    let of = |gateways: &str| file.with("gateways: [matrix]", gateways);
    of("gateways: [mesh]").is_clean();
    of("exportTo: [a]").is_clean();
    of("gateways: [mesh, a/b]").finds(&limit);
    // A delegate is for the gateways of the one that names it.
    let delegate = of("exportTo: [a]").with("  hosts: [matrix.example.org]\n", "");
    delegate.is_clean();
    let root = |gateways: &str| {
        let root = format!(
            "kind: VirtualService\nmetadata: {{ name: root, namespace: istio-ingress }}\napiVersion: networking.istio.io/v1\nspec: \
             {{ gateways: [{gateways}], hosts: [a.test], http: [{{ delegate: {{ name: matrix }} }}] }}\n---\n"
        );
        Variant(root + &delegate.0)
    };
    root("public").finds(&limit);
    root("mesh").is_clean();
}

/// The mesh has routes of its own, and a gateway has others.
#[test]
fn a_rewrite_for_pods_changes_no_path_of_clients() {
    let file = Variant::of("path-normalisation/bad-istio-rewrite.yaml");
    let found = [("path-normalisation", "uri: /matrix/")];
    let of = |gateways: &str| file.with("gateways: [matrix]", gateways);
    of("gateways: [mesh]").is_clean();
    of("exportTo: [a]").is_clean();
    of("gateways: [mesh, matrix]").finds(&found);
    let own = "- match: [{ uri: { prefix: /_matrix/ } }]";
    // What asks for another host says nothing of this one.
    let before = |conditions: &str| {
        let route =
            format!("- match: [{{ {conditions} }}]\n      rewrite: {{ uri: /a/ }}\n    {own}");
        file.with(own, &route)
    };
    before("authority: { exact: chat.example.org }").finds(&found);
    before("uri: { prefix: /_matrix/ }, headers: { a: { exact: b } }").finds(&[
        ("path-normalisation", "uri: /a/"),
        ("path-normalisation", "uri: /matrix/"),
    ]);
    file.with(
        own,
        "- match: [{ uri: { prefix: /_matrix/ }, gateways: [mesh] }]",
    )
    .finds(&[("path-normalisation", "uri: /web/")]);
}

/// The homeserver alone believes the header.
#[test]
fn a_header_that_another_service_gets_is_no_identity() {
    let file = Variant::of("identity-header/bad-istio.yaml");
    let all = [
        ("identity-header", "x-matrix-user-id: \"%REQ"),
        ("identity-header", "x-matrix-user-id, value"),
        ("identity-header", "x-matrix-user-id, claim"),
    ];
    let others = &all[1..];
    file.finds(&all);
    file.with("gateways: [matrix]", "gateways: [mesh]")
        .finds(others);
    file.with("gateways: [matrix]", "exportTo: [a]")
        .finds(others);
    let more = |spec: &str| {
        Variant(format!(
            "{}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: echo, namespace: istio-ingress \
             }}\nspec: {{ gateways: [other], hosts: [echo.test], http: [{{ headers: {{ request: {{ set: {{ x-matrix-device-id: a }} }} \
             }}, {spec} }}] }}\n",
            file.0
        ))
    };
    let with_device = [&all[..], &[("identity-header", "x-matrix-device-id")]].concat();
    more("route: [{ destination: { host: echo } }]").finds(&all);
    more("route: [{ destination: { host: synapse.other.svc.cluster.local } }]").finds(&all);
    more("route: [{ destination: { host: synapse } }]").finds(&with_device);
    more("route: [{ destination: { host: synapse.istio-ingress.svc.cluster.local } }]")
        .finds(&with_device);
    let regex = "match: [{ uri: { regex: '/_matrix/client/v3/.*' } }]";
    more(&format!(
        "{regex}, route: [{{ destination: {{ host: worker }} }}]"
    ))
    .finds(&with_device);

    let file = Variant::of("identity-header/bad-envoy-gateway.yaml");
    let own = ("identity-header", "X-Matrix-User-Id");
    let more = |spec: &str| {
        let filter = "filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: X-Matrix-User-Id, value: a }] } }]";
        Variant(format!(
            "{}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: echo, namespace: matrix }}\nspec: \
             {{ parentRefs: [{{ name: matrix }}], hostnames: [echo.test], rules: [{{ {filter}, timeouts: {{ request: 0s }}, {spec} }}] }}\n",
            file.0
        ))
    };
    more("backendRefs: [{ name: echo, port: 80 }]").finds(&[own]);
    more("backendRefs: [{ name: synapse, namespace: other, port: 8008 }]").finds(&[own]);
    more("backendRefs: [{ name: synapse, port: 8008 }]").finds(&[own, own]);
}

/// A ClientTrafficPolicy is for its own Gateway.
#[test]
fn a_policy_of_another_gateway_does_not_count() {
    let own = "kind: ClientTrafficPolicy\nmetadata: { name: matrix, namespace: matrix }\nspec:\n";
    for (file, place) in [
        (
            "underscores/bad-envoy-gateway.yaml",
            ("underscores", "withUnderscoresAction"),
        ),
        (
            "sync-timeout/bad-envoy-gateway-idle.yaml",
            ("sync-timeout", "streamIdleTimeout: 10s"),
        ),
        (
            "idle-timeout/bad-envoy-gateway-zero.yaml",
            ("idle-timeout", "streamIdleTimeout: 0s"),
        ),
    ] {
        let file = Variant::of(file);
        file.finds(&[place]);
        let at = |gateway: &str| {
            let target = "group: gateway.networking.k8s.io, kind: Gateway";
            format!("{own}  targetRefs: [{{ {target}, name: {gateway} }}]\n")
        };
        file.with(own, &at("matrix")).finds(&[place]);
        // One of the module's own Gateway, and that of the file for another one.
        let right = format!(
            "{}  path: {{ escapedSlashesAction: KeepUnchanged, disableMergeSlashes: true }}\n  timeout: {{ http: {{ streamIdleTimeout: \
             120s }} }}\n---\napiVersion: gateway.envoyproxy.io/v1alpha1\n{}",
            at("matrix").replace("name: matrix, ", "name: right, "),
            at("intranet")
        );
        file.with(own, &right).is_clean();
    }
}

/// A web client may believe what it likes.
#[test]
fn only_the_homeserver_and_mas_believe_the_first_address() {
    let file = Variant::of("forwarded-for/good-routes.yaml");
    let host = "                    - name: matrix\n";
    let web = |cluster: &str| {
        let route = format!("{{ match: {{ prefix: / }}, route: {{ cluster: {cluster} }} }}");
        file.with(
            host,
            &format!(
                "                    - {{ name: web, domains: [chat.test], routes: [{route}] }}\n{host}"
            ),
        )
    };
    web("web").is_clean();
    web("homeserver, timeout: 0s").finds(&[(
        "forwarded-for",
        "match: { prefix: / }, route: { cluster: homeserver",
    )]);
    // MAS has another name, and what serves logins.
    web("mas").finds(&[(
        "forwarded-for",
        "match: { prefix: / }, route: { cluster: mas",
    )]);
}

/// Whatever leads to the Service of an internal listener opens it.
#[test]
fn a_route_of_each_sort_leads_to_an_internal_listener() {
    let file = Variant::of("internal-address/bad-route.yaml");
    let alone = file.until("apiVersion: gateway.networking.k8s.io/v1\n");
    let found = &[("internal-address", "name: introspection, port: 80")];
    let with = |kind: &str, spec: &str| {
        Variant(format!(
            "{}apiVersion: a/v1\nkind: {kind}\nmetadata: {{ name: a }}\nspec: {spec}\n",
            alone.0
        ))
    };
    alone.is_clean();
    let backend = "backendRefs: [{ name: introspection, port: 80 }]";
    for kind in ["IngressRoute", "IngressRouteTCP"] {
        let to = |service: &str| {
            let route = format!("match: PathPrefix(`/a`), services: [{{ {service} }}]");
            with(kind, &format!("{{ routes: [{{ {route} }}] }}"))
        };
        to("name: introspection, port: 80").finds(found);
        to("name: introspection, port: 81").is_clean();
        to("name: other, port: 80").is_clean();
    }
    for kind in ["HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"] {
        let of = |parents: &str| with(kind, &format!("{{ {parents}rules: [{{ {backend} }}] }}"));
        of("").finds(found);
        of("parentRefs: [{ kind: ListenerSet, name: a }], ").finds(found);
        of("parentRefs: [{ kind: Service, name: a }], ").is_clean();
        of("parentRefs: [{ group: networking.istio.io, kind: ServiceEntry, name: a }], ")
            .is_clean();
    }
    // Nobody gets the answer to a copy.
    let copy = backend
        .replace("backendRefs: [", "requestMirror: { backendRef: ")
        .replace("]", " }");
    with(
        "HTTPRoute",
        &format!("{{ rules: [{{ filters: [{{ {copy} }}] }}] }}"),
    )
    .is_clean();
    let service = |gateways: &str| {
        let route = "route: [{ destination: { host: introspection, port: { number: 80 } } }]";
        with(
            "VirtualService",
            &format!("{{ {gateways}http: [{{ {route} }}] }}"),
        )
    };
    service("gateways: [a], ").finds(&[("internal-address", "host: introspection")]);
    service("gateways: [mesh], ").is_clean();
    service("").is_clean();
}

/// A container that starts before the others, and stays, has ports as they have.
#[test]
fn a_sidecar_may_open_a_port_of_the_node() {
    let file = Variant::of("internal-address/bad-host-port.yaml");
    let containers = "      containers:\n        - name: envoy\n";
    let with = |policy: &str| {
        file.with(
            containers,
            &format!("      containers: [{{ name: a }}]\n      initContainers:\n        - name: envoy\n{policy}"),
        )
    };
    let port = &[("internal-address", "hostPort: 10001")];
    with("          restartPolicy: Always\n").finds(port);
    with("").is_clean();
}
