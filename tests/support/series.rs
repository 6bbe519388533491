//! Every metric that the module defines when it starts, in any role.

use std::cell::RefCell;

use matrix_edge_auth::{config, host::Metrics, metrics::Metric, role::series};

/// Collects metrics as they are defined.
#[derive(Default)]
struct Defined(RefCell<Vec<Metric>>);

impl Metrics for Defined {
    fn define(&self, metric: Metric) {
        self.0.borrow_mut().push(metric);
    }

    fn record(&self, _metric: Metric, _value: u64) {}
}

/// The metrics, each as often as a role has it.
pub fn metrics() -> Vec<Metric> {
    let defined = Defined::default();
    for role in ["gateway", "introspection", "provisioning"] {
        let json = format!(
            r#"{{"role":"{role}","mode":"shadow","server_name":"example.org","introspection":{{"cluster":"mas","credential":{{"injected":true}}}}}}"#
        );
        let config = config::parse(json.as_bytes(), &|_| None).expect("a configuration");
        series::define(&defined, &config);
    }
    defined.0.into_inner()
}
