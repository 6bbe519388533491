//! The configuration that `explain` and `token` speak of: that of a gateway in a file, or one with every default.

use matrix_edge_auth::config::{self, Config, Role};

use crate::{
    check::{deployment::Deployment, source},
    yaml::Tree,
};

/// The smallest configuration: everything else is a default.
const DEFAULTS: &str = r#"{
    "server_name": "example.org",
    "introspection": {"cluster": "mas-introspection", "credential": {"injected": true}}
}"#;

/// Reads the gateway's configuration in a file, or the defaults without a file. An error is one line.
pub fn gateway(file: Option<&str>) -> Result<Config, String> {
    match file {
        None => config::parse(DEFAULTS.as_bytes(), &|_| None).map_err(|error| error.to_string()),
        Some(file) => read(file),
    }
}

fn read(file: &str) -> Result<Config, String> {
    let tree = source::read(file).map_err(|fault| fault.line())?;
    let file = source::name(file);
    let trees: [Tree; 1] = [tree];
    let mut gateways: Vec<_> = Deployment::of(&trees)
        .uses
        .into_iter()
        .filter(|one| one.role.is_none_or(|role| role == Role::Gateway))
        .collect();
    if gateways.len() > 1 {
        // An Envoy may have a gateway that rejects and another that only counts. The first is meant.
        gateways.sort_by_key(|one| {
            one.config()
                .is_none_or(|config| config.mode == config::Mode::Shadow)
        });
    }
    let Some(gateway) = gateways.into_iter().next() else {
        return Err(format!(
            "{file}: there is no gateway in it: give a file with a use of the module that has `role: gateway`, or none, and every \
             default counts"
        ));
    };
    gateway.config.map_err(|refusal| {
        let (line, column) = refusal.spot.tree.position(refusal.spot.place.start);
        format!("{file}:{line}:{column}: {}", refusal.message)
    })
}
