//! `envoy/compose/databases.sql`, as the image of PostgreSQL has psql run it at its first start.

use std::collections::BTreeSet;

use crate::{
    rig::with_rig,
    support::{
        envoy::{read, repository, yaml},
        synapse::workers::Deployment,
    },
};

const DATABASES: &str =
    "SELECT datname, pg_encoding_to_char(encoding), datcollate, datctype FROM pg_database";

fn databases(synapse: &Deployment) -> BTreeSet<String> {
    let listed = synapse.services.psql("postgres", &["--command", DATABASES]);
    listed.lines().map(str::to_owned).collect()
}

#[test]
fn the_databases_of_compose_are_those_that_mas_and_synapse_open() {
    with_rig(async |rig| {
        let before = databases(&rig.synapse);
        let file = repository().join("envoy/compose/databases.sql");
        let file = file.display().to_string();
        rig.synapse.services.psql("postgres", &["--file", &file]);
        let after = databases(&rig.synapse);
        let made: Vec<&str> = after.difference(&before).map(String::as_str).collect();
        // Synapse starts with no other encoding and locale.
        assert_eq!(made, ["mas|UTF8|C|C", "synapse|UTF8|C|C"]);

        let file = |name: &str| yaml(&read(&format!("envoy/compose/{name}")));
        // The server there is made like the one here.
        let postgres = &file("compose.yaml")["services"]["postgres"];
        let options = &postgres["environment"]["POSTGRES_INITDB_ARGS"];
        assert_eq!(options, "--encoding=UTF8 --locale=C");
        let volume = "./databases.sql:/docker-entrypoint-initdb.d/databases.sql:ro";
        assert_eq!(postgres["volumes"][0], volume);

        let uri = &file("mas.yaml")["database"]["uri"];
        let of_mas = uri.as_str().and_then(|uri| uri.rsplit('/').next());
        let arguments = &file("homeserver.yaml")["database"]["args"];
        for name in [of_mas, arguments["database"].as_str()] {
            let name = name.expect("a name");
            let there = rig
                .synapse
                .services
                .psql(name, &["--command", "SELECT current_database()"]);
            assert_eq!(there.trim(), name);
        }
    });
}
