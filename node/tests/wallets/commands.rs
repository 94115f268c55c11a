//! `ghostd wallet` as people and scripts use it: processes, exit codes, and a kill -9 in between.

use std::{
    fs,
    io::{BufRead, BufReader, Lines},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

fn ghostd(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ghostd"));
    command.args(args).stdin(Stdio::null());
    for name in ["GHOSTD_HOME", "GHOSTD_NODE", "GHOSTD_LOG"] {
        command.env_remove(name);
    }
    command.env("GHOSTD_WALLET_PASSPHRASE", "correct horse battery staple");
    command
}

/// A process that goes on; killed without warning when dropped.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        let mut child = ghostd(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line for which something is so.
    fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.lines.next().expect("it goes on").unwrap();
            let value: Value = serde_json::from_str(&line).unwrap();
            if wanted(&value) {
                return value;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Shell {
    home: PathBuf,
}

impl Shell {
    fn output(&self, wallet: &Path, args: &[&str]) -> Output {
        let (home, wallet) = (self.home.to_str().unwrap(), wallet.to_str().unwrap());
        let common = ["--json", "--home", home, "--wallet", wallet, "--timeout", "30s"];
        ghostd(&[&["wallet"], args, &common[..]].concat()).output().unwrap()
    }

    fn ask(&self, wallet: &Path, args: &[&str]) -> Value {
        let output = self.output(wallet, args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn listen(&self, wallet: &Path) -> Running {
        let (home, wallet) = (self.home.to_str().unwrap(), wallet.to_str().unwrap());
        let mut listening =
            Running::start(&["wallet", "channel", "listen", "--json", "--home", home, "--wallet", wallet]);
        listening.until(|value| value["event"] == "listening");
        listening
    }
}

#[test]
fn two_wallets_talk_and_pay_by_commands_though_one_is_killed_in_between() {
    let dir = tempfile::tempdir().unwrap();
    let shell = Shell { home: dir.path().join("home") };
    let home = shell.home.to_str().unwrap();
    let made =
        ghostd(&["init", "--home", home, "--listen", "/ip4/127.0.0.1/udp/0/quic-v1"]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let mut node = Running::start(&["run", "--json", "--home", home]);
    node.until(|value| value.to_string().contains("listening"));
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));

    let none = shell.output(&a, &["status"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("ghostd wallet new"), "{none:?}");
    let [key_a, key_b] =
        [&a, &b].map(|wallet| shell.ask(wallet, &["new"])["wallet"].as_str().unwrap().to_owned());
    let mode = fs::metadata(a.join("wallet.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = shell.output(&a, &["new"]);
    assert!(
        !again.status.success()
            && String::from_utf8_lossy(&again.stderr).contains("nothing in it was changed")
    );
    let phrase = dir.path().join("phrase");
    fs::write(&phrase, "another one\n").unwrap();
    let wrong = shell.output(&a, &["address", "--passphrase-file", phrase.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("the passphrase is wrong"), "{wrong:?}");

    let mut listening = shell.listen(&b);
    let opened = shell.ask(&a, &["channel", "open", &key_b, "--wait", "60s"]);
    assert_eq!(opened["event"]["event"], "channel_opened", "{opened}");
    shell.ask(&a, &["channel", "send", &key_b, "hello", "--wait", "60s"]);
    let heard = listening.until(|value| value["event"] == "text");
    assert_eq!((heard["text"].as_str(), heard["peer"].as_str()), (Some("hello"), Some(&*key_a)));

    // Killed; what is sent meanwhile waits for the next one.
    drop(listening);
    shell.ask(&a, &["channel", "send", &key_b, "while you were away"]);
    let mut listening = shell.listen(&b);
    listening.until(|value| value["text"] == "while you were away");

    // Another process asks the one that has the wallet open.
    let request = shell.ask(&b, &["channel", "request", &key_a, "250", "--memo", "two coffees"]);
    let request = request["request"].as_str().unwrap().to_owned();
    let address = shell.ask(&a, &["address"])["address"].as_str().unwrap().to_owned();
    let funded = ghostd(&["tx", "send", "--home", home, "--to", &address, "--value", "1000000", "--wait"]);
    assert!({ funded }.output().unwrap().status.success());
    let deadline = Instant::now() + PATIENCE;
    while !shell.ask(&a, &["channel", "requests"]).to_string().contains(&request) {
        assert!(Instant::now() < deadline, "the request never comes");
    }
    let paid = shell.ask(&a, &["channel", "pay", &request, "--wait", "60s"]);
    assert_eq!(paid["event"]["event"], "payment_confirmed", "{paid}");
    let received = listening.until(|value| value["event"] == "payment_received");
    assert_eq!(received["accepted"], true);
    let twice = shell.output(&a, &["channel", "pay", &request]);
    assert!(
        !twice.status.success() && String::from_utf8_lossy(&twice.stderr).contains("paid already"),
        "{twice:?}"
    );
    // What happened is kept, and nothing of it can be read on disk.
    let history = shell.ask(&b, &["channel", "history"]);
    assert!(history.to_string().contains("while you were away"), "{history}");
    for entry in fs::read_dir(b.join("state")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = fs::read(path).unwrap();
            assert!(!bytes.windows(19).any(|window| window == b"while you were away"));
        }
    }
}
