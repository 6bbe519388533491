//! Calls that are repeated: those whose connection failed, as often as configured, within the timeout, and never
//! for anything that MAS has answered.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use stand_in::{
    SeenRequest,
    mas::{Fault, Introspected, Mas, Options, Session},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
    time::Instant,
};

use super::edge::{Edge, WHOAMI, assert_no_verdict, new_token, values};
use crate::support::{
    envoy::bootstrap,
    http::Request,
    product_time::{EARLY, Moment},
    switch::Switch,
};

/// The questions that MAS has seen: the name of each token, and what became of it.
type Questions = Arc<Mutex<Vec<(String, String)>>>;

async fn start(introspection: Value) -> (Edge, Questions) {
    let questions = Questions::default();
    let seen = Arc::clone(&questions);
    let note = move |question: &Introspected| {
        let name = question.name.clone().unwrap_or_default();
        let mut seen = seen.lock().expect("no panic while locked");
        seen.push((name, question.outcome.clone()));
    };
    let options = Options {
        on_introspection: Some(Arc::new(note)),
        ..Options::default()
    };
    let changes = json!({"introspection": introspection});
    let edge = Edge::start_with(changes, options, |builder| builder).await;
    (edge, questions)
}

/// Asks for ten tokens, one after the other, while MAS ends every connection at its second request. Returns the
/// statuses that the clients got.
async fn ask_while_connections_close(edge: &Edge) -> Vec<u16> {
    edge.mas.fault(Fault::close_reused());
    let mut statuses = Vec::new();
    for number in 0..10 {
        let token = edge.alice();
        edge.mas.name(&token, &number.to_string());
        statuses.push(edge.whoami(&token).await.status);
    }
    statuses
}

#[tokio::test]
async fn a_connection_that_mas_closes_as_the_call_goes_out_fails_nobody() {
    let (edge, questions) = start(json!({})).await;
    assert_eq!(ask_while_connections_close(&edge).await, [200; 10]);
    let questions = questions.lock().expect("no panic while locked").clone();
    for number in 0..10 {
        let number = number.to_string();
        let of_token = questions.iter().filter(|(name, _)| *name == number);
        let outcomes: Vec<&str> = of_token.map(|(_, outcome)| outcome.as_str()).collect();
        // Nothing after the answer.
        let expected: &[&str] = match number.as_str() {
            "0" => &["active"],
            _ => &["fault: close reused", "active"],
        };
        assert_eq!(outcomes, expected, "token {number}");
    }
    assert_eq!(edge.introspections("active").await, 10.0);
    let stats = edge.envoy.stats().await;
    let repeated = stats.sum("matrix_edge_auth_introspection_retries_total", &[]);
    assert_eq!(repeated, 9.0);
    for seen in edge.mas.requests() {
        assert_is_free_of_instructions(&seen);
    }
    edge.mas.clear_faults();
    edge.assert_alive().await;
}

#[tokio::test]
async fn without_retries_each_such_call_fails() {
    let (edge, _) = start(json!({"retries": 0})).await;
    let statuses = ask_while_connections_close(&edge).await;
    assert_eq!(statuses, [200, 503].repeat(5));
    for seen in edge.mas.requests() {
        assert_is_free_of_instructions(&seen);
    }
}

#[tokio::test]
async fn a_call_is_repeated_as_often_as_configured() {
    for (retries, calls) in [(0, 1), (1, 2), (2, 3)] {
        let (edge, _) = start(json!({"retries": retries})).await;
        for fault in [Fault::close(), Fault::reset()] {
            edge.mas.fault(fault);
            let token = edge.alice();
            assert_no_verdict(&edge.whoami(&token).await);
            assert_eq!(edge.mas.calls(&token), calls, "{retries} retries");
            edge.mas.clear_faults();
        }
        edge.assert_alive().await;
    }
}

#[tokio::test]
async fn what_mas_has_begun_to_answer_is_not_asked_again() {
    let (edge, _) = start(json!({"retries": 2})).await;
    for fault in [
        Fault::status(401, "{}"),
        Fault::too_many_requests(),
        Fault::status(500, ""),
        Fault::status(502, ""),
        Fault::status(503, ""),
        Fault::status(504, ""),
        Fault::html(),
        Fault::truncated(),
        Fault::reset_mid_body(),
    ] {
        println!("{fault:?}");
        edge.mas.fault(fault);
        let token = edge.alice();
        assert_no_verdict(&edge.whoami(&token).await);
        assert_eq!(edge.mas.calls(&token), 1);
        edge.mas.clear_faults();
    }
    edge.assert_alive().await;
}

/// MAS closes those with a call under way, and those that wait for one. Envoy stands still meanwhile and reads of all in one go, so
/// that a call which is repeated at once meets a connection that is closed already.
#[tokio::test]
async fn a_mas_that_closes_all_connections_fails_nobody() {
    const CALLS: u64 = 24;
    let mas = Mas::start(Options::default()).await.expect("a free port");
    let switch = Switch::start(mas.addr()).await;
    let addr = switch.addr();
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder.bootstrap(move |config| {
            bootstrap::move_cluster(bootstrap::cluster(config, "mas"), addr);
        })
    })
    .await;
    let ask = |count: u64| -> Vec<_> {
        let asked = (0..count).map(|_| {
            let token = new_token("mat");
            mas.insert(&token, Session::access("alice", "PHONE"));
            edge.spawn(&Request::get(WHOAMI).bearer(&token))
        });
        asked.collect()
    };
    let hold = mas.hold();
    let first = ask(CALLS);
    mas.wait_for_calls(CALLS).await;
    hold.release();
    for response in first {
        assert_eq!(response.await.expect("no panic").status, 200);
    }
    let hold = mas.hold();
    let second = ask(CALLS / 2);
    mas.wait_for_calls(CALLS + CALLS / 2).await;
    edge.envoy.signal("STOP");
    switch.lead_to(mas.addr());
    switch.wait_until_unused().await;
    edge.envoy.signal("CONT");
    hold.release();
    let mut statuses = Vec::new();
    for response in second {
        statuses.push(response.await.expect("no panic").status);
    }
    assert_eq!(statuses, [200; CALLS as usize / 2]);
}

/// Also if the connection is never made, or MAS refuses the call before it looks at it.
#[tokio::test]
async fn a_call_that_never_reached_mas_is_repeated() {
    let nobody = TcpSocket::new_v4().expect("a socket");
    nobody
        .bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .expect("a free port");
    let nobody = nobody.local_addr().expect("an address");
    let refusing = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let refuses = refusing.local_addr().expect("an address");
    let refusing = tokio::spawn(refuse_streams(refusing));
    for (addr, is_http2) in [(nobody, false), (refuses, true)] {
        let edge = Edge::start_with(json!({}), Options::default(), |builder| {
            builder.bootstrap(move |config| {
                let cluster = bootstrap::cluster(config, "mas");
                bootstrap::move_cluster(cluster, addr);
                if is_http2 {
                    cluster["typed_extension_protocol_options"] = json!({
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                            "explicit_http_config": {"http2_protocol_options": {}},
                        },
                    });
                }
            })
        })
        .await;
        assert_eq!(edge.whoami(&edge.alice()).await.status, 503);
        let tries = if is_http2 {
            "upstream_rq_total"
        } else {
            "upstream_cx_connect_fail"
        };
        let tries = edge.envoy.stat(&format!("cluster.mas.{tries}")).await;
        assert_eq!(tries, 2, "HTTP/2: {is_http2}");
        assert!(edge.envoy.is_alive());
    }
    refusing.abort();
}

/// Refuses each request of HTTP/2 before anything is done with it: `REFUSED_STREAM`, RFC 9113 section 8.7.
async fn refuse_streams(listener: TcpListener) {
    const PREFACE: usize = 24;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    loop {
        let (mut connection, _) = listener.accept().await.expect("a connection");
        tokio::spawn(async move {
            connection.read_exact(&mut [0; PREFACE]).await?;
            connection
                .write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0])
                .await?;
            loop {
                let mut head = [0; 9];
                connection.read_exact(&mut head).await?;
                let [a, b, c, kind, flags, stream @ ..] = head;
                let length = u32::from_be_bytes([0, a, b, c]);
                let mut payload = vec![0; length as usize];
                connection.read_exact(&mut payload).await?;
                if kind == SETTINGS && flags == 0 {
                    connection
                        .write_all(&[0, 0, 0, SETTINGS, 1, 0, 0, 0, 0])
                        .await?;
                }
                if kind == HEADERS {
                    let [a, b, c, d] = stream;
                    let refusal = [0, 0, 4, 3, 0, a, b, c, d, 0, 0, 0, 7];
                    connection.write_all(&refusal).await?;
                }
            }
            #[expect(unreachable_code, reason = "it tells the type of the error")]
            Ok::<(), io::Error>(())
        });
    }
}

/// Two seconds, and then a second time without end: a timeout of its own for each would make seven. The first call fails long
/// before the timeout, so that there is a second one also on a machine that stalls.
#[tokio::test]
async fn the_timeout_covers_the_repetitions() {
    let timeout = Duration::from_secs(5);
    let (edge, _) = start(json!({"timeout": "5s", "retries": 2})).await;
    let late = Duration::from_secs(2);
    edge.mas.fault(Fault::close().after(late).times(1));
    edge.mas.fault(Fault::hang());
    let token = edge.alice();
    let (began, product) = (Instant::now(), Moment::now());
    assert_no_verdict(&edge.whoami(&token).await);
    let (took, of_product) = (began.elapsed(), product.elapsed());
    assert_eq!(edge.mas.calls(&token), 2, "it was asked again");
    assert!(took >= timeout - EARLY, "{took:?}");
    assert!(of_product < timeout + late, "{of_product:?}");
    edge.mas.clear_faults();
    edge.assert_alive().await;
}

/// What the module says to Envoy stays between the two.
#[track_caller]
fn assert_is_free_of_instructions(seen: &SeenRequest) {
    for name in ["x-envoy-retry-on", "x-envoy-max-retries"] {
        assert!(values(seen, name).is_empty(), "MAS saw {name}");
    }
}
