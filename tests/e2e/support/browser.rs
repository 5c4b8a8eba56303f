//! Headless Chromium, driven by WebDriver: a page, its console, its requests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::Request;
use super::process::Process;
use super::programs::Programs;

/// How long something on a page may take on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

pub struct Browser {
    _driver: Process,
    address: SocketAddr,
    session: String,
    _profile: TempDir,
}

impl Browser {
    /// Skips with `None` where Debian's `chromium` or `chromium-driver` is not installed.
    pub async fn start() -> Option<Self> {
        let programs = Programs::installed(&["chromium", "chromedriver"])?;
        let profile = tempfile::tempdir().expect("a temporary directory");
        let mut command: Command = programs.command("chromedriver");
        let mut driver = Process::spawn(command.arg("--port=0"));
        let port = driver.wait_for("chromedriver", |driver| {
            let stdout = driver.stdout();
            let (_, port) = stdout.split_once("started successfully on port ")?;
            port.split('.').next()?.parse::<u16>().ok()
        });
        let address = SocketAddr::from(([127, 0, 0, 1], port.await));
        let mut browser = Self {
            _driver: driver,
            address,
            session: String::new(),
            _profile: profile,
        };
        // Nothing but loopback addresses is ever connected to.
        let arguments = json!([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
            format!("--user-data-dir={}", browser._profile.path().display()),
        ]);
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "binary": programs.find("chromium"), "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let session = browser.send("/session", capabilities).await;
        let id = session["sessionId"].as_str().expect("a session");
        browser.session = format!("/session/{id}");
        browser.call("/timeouts", json!({ "script": 60_000 })).await;
        Some(browser)
    }

    async fn send(&self, path: &str, body: Value) -> Value {
        let request = Request::new(self.address, "POST", path)
            .header("content-type", "application/json")
            .body(body.to_string());
        let response = request.send().await;
        let mut document = response.json();
        assert_eq!(response.status, 200, "{path}: {document}");
        document["value"].take()
    }

    async fn call(&self, path: &str, body: Value) -> Value {
        let path = format!("{}{path}", self.session);
        self.send(&path, body).await
    }

    pub async fn open(&self, url: &str) {
        self.call("/url", json!({ "url": url })).await;
    }

    /// Runs the body of a function on the page.
    pub async fn run(&self, script: &str) -> Value {
        let body = json!({ "script": script, "args": [] });
        self.call("/execute/sync", body).await
    }

    /// Polls until the expression is true.
    pub async fn wait_for(&self, expression: &str) {
        let deadline = Instant::now() + TIMEOUT;
        while self.run(&format!("return Boolean({expression})")).await != json!(true) {
            assert!(Instant::now() < deadline, "never became true: {expression}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Calls a method of the Chrome DevTools Protocol.
    pub async fn devtools(&self, method: &str, params: Value) -> Value {
        let body = json!({ "cmd": method, "params": params });
        self.call("/goog/cdp/execute", body).await
    }

    /// Shows pages in this width, and dark or light.
    pub async fn show(&self, width: u32, scheme: &str) {
        let metrics =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)
            .await;
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        let media = json!({ "features": [feature] });
        self.devtools("Emulation.setEmulatedMedia", media).await;
    }

    /// Writes a picture of the whole page.
    pub async fn screenshot(&self, file: &Path) {
        let options = json!({ "captureBeyondViewport": true });
        let shot = self.devtools("Page.captureScreenshot", options).await;
        let data = shot["data"].as_str().expect("a picture");
        let bytes = BASE64_STANDARD.decode(data).expect("base64");
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        std::fs::write(file, bytes).expect("a picture");
    }

    /// Presses Tab on the page.
    pub async fn press_tab(&self) {
        let keys = ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": "\u{e004}" }));
        let actions = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": keys }] });
        self.call("/actions", actions).await;
    }

    /// The errors and warnings of the console since the last call.
    pub async fn console(&self) -> Vec<String> {
        let entries = self.log("browser").await;
        let is_fault = |entry: &&Value| {
            ["SEVERE", "WARNING"]
                .map(Value::from)
                .contains(&entry["level"])
        };
        let faults = entries.iter().filter(is_fault);
        faults.map(|entry| entry["message"].to_string()).collect()
    }

    /// The URLs that the page requested since the last call, without those of a new tab.
    pub async fn requests(&self) -> Vec<String> {
        let entries = self.log("performance").await;
        let url = |entry: &Value| {
            let message: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let message = &message["message"];
            let is_request = message["method"] == "Network.requestWillBeSent";
            is_request.then(|| {
                message["params"]["request"]["url"]
                    .as_str()
                    .map(str::to_owned)
            })?
        };
        let urls = entries.iter().filter_map(url);
        urls.filter(|url| !url.starts_with("chrome:")).collect()
    }

    async fn log(&self, kind: &str) -> Vec<Value> {
        let entries = self.call("/se/log", json!({ "type": kind })).await;
        entries.as_array().expect("a log").clone()
    }
}

impl Drop for Browser {
    /// Ends Chromium, which would outlive its driver.
    fn drop(&mut self) {
        let end = || -> std::io::Result<()> {
            let mut stream = TcpStream::connect(self.address)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            let (session, address) = (&self.session, self.address);
            write!(
                stream,
                "DELETE {session} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n"
            )?;
            stream.read(&mut [0; 1024]).map(drop)
        };
        if let Err(error) = end() {
            eprintln!("chromium may still run: {error}");
        }
    }
}
