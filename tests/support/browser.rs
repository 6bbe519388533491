//! A headless Chromium, called by the Chrome DevTools Protocol over two pipes: there is no port to find, and it ends with
//! the pipes.

use std::{env, process::Command};

use base64ct::{Base64, Encoding};
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

const MISSING: &str = "Run `scripts/setup page`, or set CHROMIUM to a Chromium or Chrome.";

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
        Self::open_with(url, &[]).await
    }

    /// The same with more options on its command line.
    ///
    /// # Panics
    ///
    /// If it does not start, or does not load the page.
    pub async fn open_with(url: &str, options: &[&str]) -> Self {
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
            .args(options)
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
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
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

    /// Resolves when the JavaScript `condition` holds in the page, which is looked at whenever the page changes.
    pub async fn wait_for(&self, condition: &str) {
        let script = format!(
            "new Promise((resolve) => {{
                const look = () => ({condition}) && (observer.disconnect(), resolve(true));
                const observer = new MutationObserver(look);
                observer.observe(document, {{
                    subtree: true, childList: true, attributes: true, characterData: true,
                }});
                look();
            }})"
        );
        self.run(&script).await;
    }

    /// Gives the page this size in pixels, and `light` or `dark` colours.
    pub async fn look(&self, width: u32, height: u32, colours: &str) {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false,
        });
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": colours}]});
        self.call("Emulation.setEmulatedMedia", media).await;
    }

    /// Presses a key, such as `Tab`, and lets it go.
    pub async fn key(&self, key: &str, code: u32, text: &str) {
        let mut event = json!({
            "type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text,
        });
        self.call("Input.dispatchKeyEvent", event.clone()).await;
        event["type"] = "keyUp".into();
        self.call("Input.dispatchKeyEvent", event).await;
    }

    /// What went wrong in the page: exceptions that nobody caught, and errors in its console.
    pub fn mistakes(&self) -> Vec<Value> {
        let is_mistake = |event: &Value| {
            event["method"] == "Runtime.exceptionThrown"
                || event["method"] == "Log.entryAdded"
                    && event["params"]["entry"]["level"] == "error"
        };
        let mut events = self.devtools.events_since(0);
        events.retain(is_mistake);
        events
    }

    /// Takes a picture of what the window shows: a PNG.
    pub async fn picture(&self) -> Vec<u8> {
        self.call("Emulation.setScrollbarsHidden", json!({"hidden": true}))
            .await;
        let taken = self
            .call("Page.captureScreenshot", json!({"format": "png"}))
            .await;
        Base64::decode_vec(&text(&taken["data"])).expect("base64")
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
