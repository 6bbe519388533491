//! A headless Chromium, called by the Chrome DevTools Protocol over two pipes: there is no port to find, and it ends with
//! the pipes.

use std::{env, process::Command};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::peer::Peer;

/// DevTools reads file descriptor 3 and writes to 4. Its log goes where ours does.
const PIPES: &str = r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null"#;

/// Without a sandbox, since the tests may run as root. The rest keeps it from asking the network for anything by itself.
const OPTIONS: [&str; 11] = [
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
];

const MISSING: &str = "Run `scripts/setup clients`, or set CHROMIUM to a Chromium or Chrome.";

/// A running browser with one page.
pub struct Browser {
    // Dropped before the directory that it uses.
    devtools: Peer,
    session: String,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser and opens `url`.
    ///
    /// # Panics
    ///
    /// If it does not start, or does not load the page.
    pub async fn open(url: &str) -> Self {
        let profile = tempfile::Builder::new()
            .prefix("chromium-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("a directory for Chromium");
        let program = env::var_os("CHROMIUM").unwrap_or_else(|| "chromium".into());
        let mut data = std::ffi::OsString::from("--user-data-dir=");
        data.push(profile.path());
        let mut command = Command::new("sh");
        command
            .args(["-c", PIPES])
            .arg(program)
            .args(OPTIONS)
            .arg(data)
            // A session bus that is not there costs seconds.
            .env_remove("DBUS_SESSION_BUS_ADDRESS");
        let devtools = Peer::start("Chromium", &mut command, b'\0', MISSING);
        let mut browser = Self {
            devtools,
            session: String::new(),
            _profile: profile,
        };
        let target = browser
            .call("Target.createTarget", json!({"url": "about:blank"}))
            .await;
        let attached = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attached).await;
        browser.session = text(&session["sessionId"]);
        browser.call("Page.enable", json!({})).await;
        let loaded = browser.devtools.events();
        let opened = browser.call("Page.navigate", json!({"url": url})).await;
        assert_eq!(opened["errorText"], Value::Null, "{url}");
        browser
            .devtools
            .event_since(loaded, "Page.loadEventFired", |_| true)
            .await;
        browser
    }

    /// Runs JavaScript in the page, and returns what the promise that it evaluates to resolves with.
    ///
    /// # Panics
    ///
    /// If it throws.
    pub async fn run(&self, script: &str) -> Value {
        let parameters = json!({
            "expression": script,
            "awaitPromise": true,
            "returnByValue": true,
        });
        let mut outcome = self.call("Runtime.evaluate", parameters).await;
        let thrown = &outcome["exceptionDetails"];
        assert!(thrown.is_null(), "{script}\n{thrown}");
        outcome["result"]["value"].take()
    }

    async fn call(&self, method: &str, parameters: Value) -> Value {
        let mut message = json!({"method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = (*self.session).into();
        }
        self.devtools
            .try_call(message)
            .await
            .unwrap_or_else(|error| panic!("{method}: {error}"))
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}
