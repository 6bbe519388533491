//! A stand-in MAS with a homeserver to tell.

use stand_in::{
    SeenRequest,
    homeserver::Homeserver,
    mas::{Mas, Options},
};

/// Starts both with the defaults.
pub async fn start() -> (Mas, Homeserver) {
    start_with(Options::default()).await
}

/// Starts both, MAS with these options.
pub async fn start_with(options: Options) -> (Mas, Homeserver) {
    let homeserver = Homeserver::start_local().await.expect("a free port");
    (start_mas(&homeserver, options).await, homeserver)
}

/// Starts a MAS that calls `homeserver`.
pub async fn start_mas(homeserver: &Homeserver, options: Options) -> Mas {
    Mas::start(Options {
        homeserver: Some(homeserver.addr()),
        ..options
    })
    .await
    .expect("a free port")
}

/// What arrived, as `{call} {body}`.
pub fn calls(homeserver: &Homeserver) -> Vec<String> {
    let call = |request: &SeenRequest| {
        let name = request.path().trim_start_matches("/_synapse/mas/");
        format!("{name} {}", String::from_utf8_lossy(&request.body))
    };
    homeserver.requests().iter().map(call).collect()
}
