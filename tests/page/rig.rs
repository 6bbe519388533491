//! The stack of `make run`, on free ports: a stand-in MAS, a stand-in homeserver, an Envoy with the shipped configuration
//! between them, the page, and a browser that shows it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde_json::{Value, json};
use stand_in::{
    homeserver::Homeserver,
    mas::{DEFAULT_SECRET, Mas, Options},
    page::{Cache, Cast, Observer, Page, Stack},
};

use tokio::time::timeout;

use crate::support::{
    browser::Browser,
    envoy::{Envoy, bootstrap, shipped_at},
    http::LIMIT,
};

/// How long answers hold in the shipped configuration.
pub const SHIPPED: Cache = Cache {
    ttl: Duration::from_secs(120),
    negative_ttl: Duration::from_secs(10),
    stale_if_error: Duration::ZERO,
};

/// All of it, with the page in a browser.
pub struct Rig {
    pub mas: Arc<Mas>,
    pub envoy: Envoy,
    pub page: Page,
    pub browser: Browser,
    _homeserver: Homeserver,
}

/// Figures of the page, by their names there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Figures {
    pub requests: u64,
    pub calls: u64,
    pub spared: u64,
    pub from_cache: u64,
    pub refused: u64,
    pub invalidated: u64,
    pub at_mas: u64,
    /// The bars: requests by their verdicts, and the homeserver's own questions.
    pub by_verdict: [u64; BARS.len()],
}

/// The bars of the page, by their names there. The last is of the homeserver's own questions.
pub const BARS: [&str; 5] = ["active", "inactive", "no_verdict", "not_asked", "answers"];

impl Rig {
    /// Starts it with the shipped configuration.
    pub async fn start() -> Self {
        Self::start_with(SHIPPED).await
    }

    /// Starts it with other times in the gateway's `cache`.
    pub async fn start_with(cache: Cache) -> Self {
        let observer = Arc::new(Observer::default());
        let options = Options {
            on_introspection: Some(Arc::new({
                let observer = Arc::clone(&observer);
                move |introspected| observer.introspected(introspected)
            })),
            on_provisioning: Some(Arc::new({
                let observer = Arc::clone(&observer);
                move |call| observer.told(call)
            })),
            ..Options::default()
        };
        let mas = Arc::new(Mas::start(options).await.expect("a free port"));
        let homeserver = Homeserver::start_local().await.expect("a free port");
        let envoy = start_envoy(mas.addr(), homeserver.addr(), cache).await;
        mas.set_homeserver(envoy.listener("provisioning"));
        let stack = Stack {
            cast: Arc::new(Cast::begin(Arc::clone(&mas))),
            mas: Arc::clone(&mas),
            observer,
            gateway: envoy.listener("matrix"),
            introspection: envoy.listener("introspection"),
            admin: envoy.admin(),
            secret: DEFAULT_SECRET.to_owned(),
            cache,
        };
        let page = Page::start(SocketAddr::from(([127, 0, 0, 1], 0)), stack)
            .await
            .expect("a free port");
        let browser = Browser::open(&format!("http://{}/", page.addr())).await;
        browser
            .wait_for(r#"document.getElementById("link").textContent === "Live""#)
            .await;
        Self {
            mas,
            envoy,
            page,
            browser,
            _homeserver: homeserver,
        }
    }

    /// Presses a button, and returns what the page then tells. The page's figures are true then.
    pub async fn press(&self, button: &str) -> String {
        self.begin(button).await;
        let told = self.ended(button).await;
        self.assert_true().await;
        told
    }

    /// Presses a button, and does not wait for its end.
    pub async fn begin(&self, button: &str) {
        let button = json!(format!("[data-button={button}]"));
        let script = format!(
            r#"(() => {{
                const button = document.querySelector({button});
                if (!button) throw new Error("no such button");
                window.pressed = button;
                button.click();
            }})()"#
        );
        self.browser.run(&script).await;
    }

    /// Resolves when the button that was pressed last has done what it does, with what the page tells.
    pub async fn ended(&self, button: &str) -> String {
        self.browser
            .wait_for(r#"!window.pressed.hasAttribute("aria-busy")"#)
            .await;
        let told = self.text("told").await;
        assert!(!told.is_empty(), "{button}");
        told
    }

    /// The text of an element.
    pub async fn text(&self, id: &str) -> String {
        let text = self
            .browser
            .run(&format!(
                "document.getElementById({}).textContent",
                json!(id)
            ))
            .await;
        text.as_str().expect("a text").to_owned()
    }

    /// A figure of the page.
    pub async fn figure(&self, name: &str) -> u64 {
        let of = json!(format!("[data-figure={name}]"));
        let value = self
            .browser
            .run(&format!(
                "Number(document.querySelector({of}).dataset.value)"
            ))
            .await;
        value
            .as_u64()
            .unwrap_or_else(|| panic!("{name} is no number: {value}"))
    }

    /// Resolves when a figure of the page has this value.
    pub async fn wait_for_figure(&self, name: &str, value: u64) {
        let of = json!(format!("[data-figure={name}]"));
        self.browser
            .wait_for(&format!(
                "document.querySelector({of}).dataset.value === '{value}'"
            ))
            .await;
    }

    /// The figures of the page, all of one moment.
    pub async fn figures(&self) -> Figures {
        let script = r#"Object.fromEntries([
            ...[...document.querySelectorAll("[data-figure]")].map(({dataset}) => [dataset.figure, Number(dataset.value)]),
            ...[...document.querySelectorAll("[data-verdict]")]
                .map(({dataset, textContent}) => [`bar ${dataset.verdict}`, Number(textContent.replaceAll(",", ""))]),
        ])"#;
        let read = self.browser.run(script).await;
        let of = |name: &str| {
            read[name]
                .as_u64()
                .unwrap_or_else(|| panic!("{name}: {read}"))
        };
        Figures {
            requests: of("requests"),
            calls: of("calls"),
            spared: of("spared"),
            from_cache: of("from-cache"),
            refused: of("refused"),
            invalidated: of("invalidated"),
            at_mas: of("mas-calls"),
            by_verdict: BARS.map(|bar| of(&format!("bar {bar}"))),
        }
    }

    /// What the page says of a token: what it is to MAS, and what the edge has.
    pub async fn member(&self, id: &str) -> [String; 2] {
        let row = json!(format!("[data-member={id}]"));
        let cells = self
            .browser
            .run(&format!(
                "[...document.querySelector({row}).cells].map((cell) => cell.textContent)"
            ))
            .await;
        [1, 2].map(|cell| cells[cell].as_str().expect("a text").to_owned())
    }

    /// Waits until the page shows what the edge's metrics say, by another interface, and MAS's own count. A renewal may
    /// go on when all requests have their answers.
    pub async fn assert_true(&self) {
        let mut last = None;
        let agreed = timeout(LIMIT, async {
            loop {
                let (shown, is_true) = (self.figures().await, self.true_figures().await);
                if shown == is_true {
                    break;
                }
                last = Some((shown, is_true));
            }
        });
        let is_agreed = agreed.await.is_ok();
        assert!(is_agreed, "shown and true: {last:?}");
    }

    async fn true_figures(&self) -> Figures {
        let stats = self.envoy.stats_so_far().await;
        let sum = |metric: &str, labels: &[(&str, &str)]| {
            stats.sum(&format!("matrix_edge_auth_{metric}"), labels) as u64
        };
        let both = |label: &str, value: &str| {
            let of = |metric| sum(metric, &[(label, value)]);
            of("requests_total") + of("introspection_answers_total")
        };
        let outcome = |outcome| sum("introspections_total", &[("outcome", outcome)]);
        let unsent = outcome("overloaded") + outcome("undeliverable");
        let verdicts = both("verdict", "active") + both("verdict", "inactive");
        Figures {
            requests: sum("requests_total", &[]),
            calls: sum("introspections_total", &[]) - unsent,
            spared: verdicts - outcome("active") - outcome("inactive"),
            from_cache: both("source", "local")
                + both("source", "shared")
                + both("source", "stale"),
            refused: sum("rejections_total", &[]),
            invalidated: sum("invalidations_total", &[]),
            at_mas: self.mas.total_calls(),
            by_verdict: BARS.map(|bar| match bar {
                "answers" => sum("introspection_answers_total", &[]),
                verdict => sum("requests_total", &[("verdict", verdict)]),
            }),
        }
    }
}

async fn start_envoy(mas: SocketAddr, homeserver: SocketAddr, cache: Cache) -> Envoy {
    Envoy::builder()
        .concurrency(2)
        .env("MAS_SECRET", DEFAULT_SECRET)
        .bootstrap(move |config| {
            *config = shipped_at("envoy/local/envoy.yaml", &[]);
            for listener in bootstrap::listeners(config) {
                let manager = bootstrap::http_manager_of(listener);
                let plugin = &mut bootstrap::plugin(manager)["configuration"]["value"];
                if plugin["role"] == "gateway" {
                    set_cache(plugin, cache);
                    // A herd may wait for as long as a loaded machine takes to send it.
                    plugin["introspection"]["timeout"] = json!("60s");
                }
            }
            for (cluster, addr) in [
                ("mas", mas),
                ("mas-introspection", mas),
                ("homeserver", homeserver),
                ("homeserver-media", homeserver),
            ] {
                bootstrap::move_cluster(bootstrap::cluster(config, cluster), addr);
            }
        })
        .start()
        .await
}

fn set_cache(plugin: &mut Value, cache: Cache) {
    let millis = |time: Duration| json!(format!("{}ms", time.as_millis()));
    plugin["cache"] = json!({
        "ttl": millis(cache.ttl),
        "negative_ttl": millis(cache.negative_ttl),
        "stale_if_error": millis(cache.stale_if_error),
    });
}
