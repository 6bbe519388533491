//! An `ext_authz` service for Envoy that asks MAS about access tokens and keeps the answers in its memory: what one
//! writes today to introspect tokens at an Envoy. `make bench PART=alternatives` compares the module with it.
//!
//! It does what makes such a service fast, so that the comparison is fair: one look-up in a concurrent cache per request,
//! one call to MAS for any number of requests with the same token, kept-alive connections, no logging.
//!
//! ```text
//! ext-authz-service http|grpc MAS-ADDRESS WORKERS
//! ```
//!
//! It listens on a free port of loopback and prints its address.

mod grpc;
mod http;
mod verdicts;

use std::{env, net::SocketAddr, sync::Arc};

use tokio::net::TcpListener;

use self::verdicts::Verdicts;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [protocol, mas, workers] = arguments.as_slice() else {
        eprintln!("usage: ext-authz-service http|grpc MAS-ADDRESS WORKERS");
        std::process::exit(2);
    };
    let mas: SocketAddr = mas.parse().expect("the address of MAS");
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers.parse().expect("a number of workers"))
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(serve(protocol, Arc::new(Verdicts::new(mas))));
}

async fn serve(protocol: &str, verdicts: Arc<Verdicts>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    println!("{}", listener.local_addr().expect("a bound listener"));
    match protocol {
        "http" => http::serve(listener, verdicts).await,
        "grpc" => grpc::serve(listener, verdicts).await,
        other => panic!("{other} is neither http nor grpc"),
    }
}
