//! A Tor network of its own on loopback, from the `tor` and `tor-gencert` programs (Debian's package `tor`):
//! three authorities, six relays, two exits.
//!
//! Keys first; then the authorities' certificates and everyone's fingerprints make the configuration that all
//! share; then all start at once, just after a boundary of the first voting interval, so that the first vote, four
//! seconds before the next boundary, knows every relay. With voting every half hour after that, this first
//! consensus is the only one a test sees. Two exits, because a client whose guard is the only one could not
//! exit; shared random values are there from the start, where a network that makes its own needs a day of votes
//! before an onion service is content.

use std::{
    fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::process::{Pid, Signal, kill_process};

/// Length of the first voting interval, in seconds: the shortest that tor takes with the delays below.
const FIRST_VOTING_S: u64 = 10;

/// Every later one, in seconds.
const VOTING_S: u64 = 1800;

/// Time the programs that make keys may take, on a machine that does something else as well.
const KEYS_TIME: Duration = Duration::from_secs(60);

/// Time the network has to agree on itself. Its first vote is after ten seconds at most; a relay that came too late
/// for it on a busy machine has missed the only one for long.
const CONSENSUS_TIME: Duration = Duration::from_secs(40);

/// How often all of it is started again, if it does not agree.
const STARTS_MAX: usize = 4;

/// Between two reminders to a relay that has no consensus yet: they reset its download back-off.
const REMIND_EVERY: Duration = Duration::from_secs(2);

/// A place to run programs in: the machine as it is, or a network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The machine's own network.
    Here,
    /// The network namespace of this name, as `ip netns` knows it.
    Namespace(String),
}

impl Place {
    /// A command that runs there.
    pub fn command(&self, program: &str) -> Command {
        match self {
            Self::Here => Command::new(program),
            Self::Namespace(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name, program]);
                command
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Authority,
    Relay,
    Exit,
}

/// One relay of the network.
#[derive(Debug)]
pub struct Relay {
    /// Its nickname.
    pub name: String,
    /// Where it takes connections, on loopback.
    pub or_port: u16,
    /// Where it answers for the directory, on loopback.
    pub dir_port: u16,
    kind: Kind,
    dir: PathBuf,
    child: Option<Child>,
}

/// A running network. Dropped, it ends.
#[derive(Debug)]
pub struct TorNetwork {
    relays: Vec<Relay>,
    settings: PathBuf,
    place: Place,
}

fn failed(what: impl std::fmt::Display) -> io::Error {
    io::Error::other(what.to_string())
}

impl Relay {
    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn second_word(&self, name: &str) -> io::Result<String> {
        let text = fs::read_to_string(self.file(name))?;
        let word = text.split_whitespace().nth(1);
        word.map(str::to_owned).ok_or_else(|| failed(format!("{} says nothing", self.file(name).display())))
    }

    /// What every relay is told. Nothing may leave the machine: each outgoing socket is bound to loopback.
    fn common(&self) -> String {
        let Self { name, or_port, dir_port, dir, .. } = self;
        let dir = dir.display();
        format!(
            "TestingTorNetwork 1\nDataDirectory {dir}\nNickname {name}\nAddress 127.0.0.1\n\
             ORPort 127.0.0.1:{or_port} IPv4Only\nDirPort 127.0.0.1:{dir_port}\nSocksPort 0\nControlPort 0\n\
             Log notice file {dir}/notice.log\nShutdownWaitLength 0\nRunAsDaemon 0\nContactInfo test@test.invalid\n\
             OutboundBindAddress 127.0.0.1\nUseDefaultFallbackDirs 0\nAssumeReachable 1\n\
             ServerDNSDetectHijacking 0\nServerDNSTestAddresses\nServerDNSAllowBrokenConfig 1\n\
             ServerDNSResolvConfFile {dir}/resolv.conf\nGeoIPFile {dir}/empty\nGeoIPv6File {dir}/empty\n\
             PathsNeededToBuildCircuits 0.67\nTestingServerDownloadInitialDelay 0\n\
             TestingClientDownloadInitialDelay 0\nTestingServerConsensusDownloadInitialDelay 0\n\
             TestingClientConsensusDownloadInitialDelay 0\nTestingMinFastFlagThreshold 0\nNumCPUs 1\n\
             KISTSchedRunInterval 1 msec\n"
        )
    }

    fn of_its_kind(&self) -> String {
        match self.kind {
            Kind::Authority => format!(
                "AuthoritativeDirectory 1\nV3AuthoritativeDirectory 1\nV3AuthVotingInterval {VOTING_S}\n\
                 V3AuthVoteDelay 2\nV3AuthDistDelay 2\nV3AuthNIntervalsValid 3\n\
                 TestingV3AuthInitialVotingInterval {FIRST_VOTING_S}\nTestingV3AuthInitialVoteDelay 2\n\
                 TestingV3AuthInitialDistDelay 2\nTestingV3AuthVotingStartOffset 0\n\
                 TestingDirAuthVoteGuard *\nTestingDirAuthVoteHSDir *\nTestingMinExitFlagThreshold 0\n\
                 AuthDirFastGuarantee 1\nAuthDirGuardBWGuarantee 1\nMinUptimeHidServDirectoryV2 0\n\
                 TestingAuthDirTimeToLearnReachability 0\nAuthDirMaxServersPerAddr 0\nAuthDirTestReachability 0\n\
                 ConsensusParams hsdir_interval={}\nExitPolicy reject *:*\n",
                24 * VOTING_S / 60
            ),
            Kind::Relay => "ExitRelay 0\nExitPolicy reject *:*\n".into(),
            // A summary of the policy is made from public addresses only: with less, clients see none.
            Kind::Exit => "ExitRelay 1\nExitPolicyRejectPrivate 0\nExitPolicyRejectLocalInterfaces 0\n\
                           ExitPolicy accept *:*\n"
                .into(),
        }
    }

    fn command(&self, place: &Place) -> Command {
        let mut command = place.command("tor");
        command.arg("-f").arg(self.file("torrc")).args(["--defaults-torrc", "/dev/null"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Whether it has a consensus that names all of so many relays.
    fn knows(&self, relays: usize) -> bool {
        let text = fs::read_to_string(self.file("cached-microdesc-consensus")).unwrap_or_default();
        let flags: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("s ")).collect();
        let wanted = ["Running", "Valid", "Fast", "Stable", "HSDir", "Guard"];
        let good = |flags: &&&str| wanted.iter().all(|flag| flags.split(' ').any(|one| one == *flag));
        flags.iter().filter(good).count() == relays && flags.iter().any(|flags| flags.contains("Exit"))
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.as_ref().and_then(|child| Pid::from_raw(child.id() as i32)) {
            // Fails only if it has ended.
            let _ = kill_process(pid, signal);
        }
    }
}

/// Ends a program that takes too long.
fn wait(mut child: Child, what: &str) -> io::Result<()> {
    let deadline = Instant::now() + KEYS_TIME;
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(failed(format!("{what} failed: {status}"))),
            None if Instant::now() > deadline => {
                child.kill()?;
                child.wait()?;
                return Err(failed(format!("{what} takes too long")));
            }
            None => sleep(Duration::from_millis(50)),
        }
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A time as tor writes it. Days from the epoch become a date by Hinnant's algorithm.
fn date_of(unix_s: u64) -> String {
    let (days, of_day) = (unix_s / 86_400 + 719_468, unix_s % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// The shared random values of this period, as an authority keeps them.
fn shared_random(now: u64) -> String {
    let period = 24 * VOTING_S;
    let start = now - now % period;
    // 32 bytes of "p" and of "c", in base 64.
    format!(
        "Version 1\nTorVersion Tor 0.4.9\nValidAfter {}\nValidUntil {}\n\
         SharedRandPreviousValue 3 cHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHA=\n\
         SharedRandCurrentValue 3 Y2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2M=\n",
        date_of(start),
        date_of(start + period)
    )
}

/// Ports that nobody holds now.
fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let held = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<Vec<_>>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

impl TorNetwork {
    /// Whether the programs it takes are there.
    pub fn is_possible() -> bool {
        ["tor", "tor-gencert"].into_iter().all(is_installed)
    }

    /// Starts a network whose files are in `dir`. What [`Self::settings`] names can be used at once; the network
    /// itself after [`Self::settle`].
    pub fn start(dir: &Path, place: &Place) -> io::Result<Self> {
        let kinds = [(Kind::Authority, "auth", 3), (Kind::Relay, "relay", 6), (Kind::Exit, "exit", 2)];
        let named = kinds
            .iter()
            .flat_map(|(kind, name, count)| (0..*count).map(move |n| (*kind, format!("{name}{n}"))));
        let named: Vec<_> = named.collect();
        let mut ports = free_ports(2 * named.len())?.into_iter();
        let mut port = || ports.next().unwrap_or_default();
        let relays: Vec<Relay> = named
            .into_iter()
            .map(|(kind, name)| {
                let dir = dir.join(&name);
                Relay { name, or_port: port(), dir_port: port(), kind, dir, child: None }
            })
            .collect();
        for relay in &relays {
            fs::create_dir_all(relay.file("keys"))?;
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&relay.dir, fs::Permissions::from_mode(0o700))?;
            fs::write(relay.file("resolv.conf"), "nameserver 127.0.0.1\n")?;
            fs::write(relay.file("empty"), "")?;
        }
        make_certificates(&relays)?;
        make_keys(&relays)?;
        let (authorities, settings_text) = shared_settings(&relays)?;
        let settings = dir.join("arti.toml");
        fs::write(&settings, settings_text)?;

        for relay in &relays {
            let text = format!("{}{authorities}{}", relay.common(), relay.of_its_kind());
            fs::write(relay.file("torrc"), text)?;
        }
        let mut network = Self { relays, settings, place: place.clone() };
        network.start_all()?;
        Ok(network)
    }

    /// Starts all relays, which forget what they knew of each other.
    fn start_all(&mut self) -> io::Result<()> {
        self.end_all();
        for relay in &self.relays {
            for entry in fs::read_dir(&relay.dir)?.flatten() {
                if entry.file_name().to_string_lossy().starts_with("cached-") {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        // The first vote is six seconds after a boundary, and has to know everyone.
        let boundary = |now: Duration| now.as_millis() as u64 % (1000 * FIRST_VOTING_S);
        while boundary(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()) > 1_000 {
            sleep(Duration::from_millis(50));
        }
        for relay in &mut self.relays {
            if relay.kind == Kind::Authority {
                fs::write(relay.file("sr-state"), shared_random(unix_s()))?;
            }
            relay.child = Some(relay.command(&self.place).spawn()?);
        }
        Ok(())
    }

    fn end_all(&mut self) {
        for relay in &mut self.relays {
            if let Some(mut child) = relay.child.take() {
                // Fails only if it has ended.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }

    /// Settings of arti's that lead to this network and to no other.
    pub fn settings(&self) -> &Path {
        &self.settings
    }

    /// Its relays.
    pub fn relays(&self) -> &[Relay] {
        &self.relays
    }

    /// Waits until every relay knows all of them; starts all again if that does not come about.
    pub fn settle(&mut self) -> io::Result<()> {
        for _ in 1..STARTS_MAX {
            if self.agree().is_ok() {
                return Ok(());
            }
            self.start_all()?;
        }
        self.agree()
    }

    fn agree(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + CONSENSUS_TIME;
        let mut reminded = Instant::now();
        let count = self.relays.len();
        loop {
            let late: Vec<&Relay> = self.relays.iter().filter(|relay| !relay.knows(count)).collect();
            if late.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let names: Vec<&str> = late.iter().map(|relay| relay.name.as_str()).collect();
                return Err(failed(format!(
                    "the network does not agree; still missing: {}",
                    names.join(", ")
                )));
            }
            let agreed =
                self.relays.iter().filter(|relay| relay.kind == Kind::Authority).all(|one| one.knows(count));
            if agreed && reminded.elapsed() > REMIND_EVERY {
                reminded = Instant::now();
                late.iter().for_each(|relay| relay.signal(Signal::HUP));
            }
            sleep(Duration::from_millis(200));
        }
    }

    /// Ends one relay, without a farewell.
    pub fn kill(&mut self, or_port: u16) -> io::Result<String> {
        let relay = self.relays.iter_mut().find(|relay| relay.or_port == or_port);
        let relay = relay.ok_or_else(|| failed(format!("no relay is at port {or_port}")))?;
        if let Some(mut child) = relay.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(relay.name.clone())
    }
}

impl Drop for TorNetwork {
    fn drop(&mut self) {
        self.end_all();
    }
}

/// Whether a program is on the path.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// The authorities' own keys, made side by side.
fn make_certificates(relays: &[Relay]) -> io::Result<()> {
    let mut making = Vec::new();
    for relay in relays.iter().filter(|relay| relay.kind == Kind::Authority) {
        let keys = relay.file("keys");
        let mut child = Command::new("tor-gencert")
            .args(["--create-identity-key", "-m", "12", "--passphrase-fd", "0", "-a"])
            .arg(format!("127.0.0.1:{}", relay.dir_port))
            .arg("-i")
            .arg(keys.join("authority_identity_key"))
            .arg("-s")
            .arg(keys.join("authority_signing_key"))
            .arg("-c")
            .arg(keys.join("authority_certificate"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            io::Write::write_all(&mut stdin, b"x\n")?;
        }
        making.push(child);
    }
    making.into_iter().try_for_each(|child| wait(child, "tor-gencert"))
}

/// Everyone's keys as a relay. Tor makes them only under a whole configuration, so it is given some authority.
fn make_keys(relays: &[Relay]) -> io::Result<()> {
    let nobody = "A".repeat(40);
    let mut making = Vec::new();
    for relay in relays {
        let text =
            format!("{}DirAuthority x orport=1 v3ident={nobody} 127.0.0.1:1 {nobody}\n", relay.common());
        fs::write(relay.file("torrc"), text)?;
        let mut command = relay.command(&Place::Here);
        making.push(command.args(["--hush", "--list-fingerprint"]).spawn()?);
    }
    making.into_iter().try_for_each(|child| wait(child, "tor --list-fingerprint"))
}

/// What everyone has to know of the authorities: for torrc, and for arti.
fn shared_settings(relays: &[Relay]) -> io::Result<(String, String)> {
    let (mut torrc, mut caches, mut identities) = (String::new(), String::new(), Vec::new());
    for relay in relays.iter().filter(|relay| relay.kind == Kind::Authority) {
        let Relay { name, or_port, dir_port, .. } = relay;
        let (rsa, ed) = (relay.second_word("fingerprint")?, relay.second_word("fingerprint-ed25519")?);
        let certificate = fs::read_to_string(relay.file("keys/authority_certificate"))?;
        let identity = certificate.lines().find_map(|line| line.strip_prefix("fingerprint "));
        let identity = identity.ok_or_else(|| failed("the certificate names no fingerprint"))?.to_owned();
        torrc += &format!(
            "DirAuthority {name} orport={or_port} no-v2 v3ident={identity} 127.0.0.1:{dir_port} {rsa}\n"
        );
        caches += &format!(
            "  {{ rsa_identity = \"{rsa}\", ed_identity = \"{ed}\", orports = [\"127.0.0.1:{or_port}\"] }},\n"
        );
        identities.push(format!("\"{identity}\""));
    }
    // All relays are on one address, which clients would take for one hand; the folders of a test are not an
    // operator's; and of so few relays vanguards would pin a good part: one that dies would be in every path.
    let settings = format!(
        "[tor_network]\nfallback_caches = [\n{caches}]\n[tor_network.authorities]\nv3idents = [{}]\n\
         [path_rules]\nipv4_subnet_family_prefix = 33\nipv6_subnet_family_prefix = 129\n\
         [storage.permissions]\ndangerously_trust_everyone = true\n[vanguards]\nmode = \"disabled\"\n",
        identities.join(", ")
    );
    Ok((torrc, settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_as_tor_writes_them() {
        assert_eq!(date_of(0), "1970-01-01 00:00:00");
        assert_eq!(date_of(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(date_of(1_798_761_599), "2026-12-31 23:59:59");
    }
}
