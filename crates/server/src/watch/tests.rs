use std::thread::JoinHandle;

use config::presets;
use engine::Sampling;
use model::Model;
use serde_json::json;
use tempfile::TempDir;
use tokenizer::{ChatFormat, ChatTemplate, Tokenizer};

use super::*;
use crate::options::{Disk, VersionPolicy};
use crate::served::Parts;

/// A model that is made, not read.
fn parts() -> Parts {
    let changes = json!({ "max_position_embeddings": 128, "vocab_size": 520 });
    let config = presets::preset("tiny").unwrap().with_overrides(changes.as_object().unwrap()).unwrap();
    let tokenizer = concat!(env!("CARGO_MANIFEST_DIR"), "/../tokenizer/testdata/tiny");
    Parts {
        model: Model::random(&config, 0.1, 1),
        tokenizer: Tokenizer::read(Path::new(tokenizer)).unwrap(),
        template: ChatTemplate::builtin(ChatFormat::V3),
        add_bos: false,
        defaults: Sampling::default(),
        stop: Vec::new(),
        identity: [1; 32],
        latents_identity: [2; 32],
    }
}

/// Does what the version's directory says.
fn load(dir: &Path) -> Result<Parts, LoadError> {
    match fs_err::read_to_string(dir.join("config.json")).unwrap().as_str() {
        "serve" => Ok(parts()),
        "panic" => panic!("as it was told"),
        "hang" => {
            while dir.exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(LoadError("its directory is gone".to_owned()))
        }
        other => Err(LoadError(other.to_owned())),
    }
}

/// A watch over versions that the test makes.
struct Watched {
    dir: TempDir,
    versions: Arc<Versions>,
    outbox: Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl Watched {
    fn new(options: Options) -> Self {
        Self::over(TempDir::new().unwrap(), options)
    }

    fn over(dir: TempDir, options: Options) -> Self {
        let source = Source::Versions(dir.path().join("models"), VersionPolicy::Latest(1));
        fs_err::create_dir_all(dir.path().join("models")).unwrap();
        let engine = engine::Limits { cache_bytes: 1 << 20, ..engine::Limits::default() };
        let options = Arc::new(Options { source, engine, ..options });
        let means = Means { loader: Box::new(load), ctx: tensor::Ctx::new(1).unwrap(), options };
        let versions = Arc::new(Versions::new());
        let (watch, outbox) = Watch::new(means, versions.clone());
        let thread = std::thread::spawn(move || watch.run());
        Self { dir, versions, outbox, thread: Some(thread) }
    }

    fn path(&self, version: u64) -> PathBuf {
        self.dir.path().join("models").join(version.to_string())
    }

    /// Puts a version into place that does as `config` says.
    fn put(&self, version: u64, config: &str) {
        put(&self.path(version), config);
    }

    fn states(&self) -> Vec<(u64, &'static str)> {
        self.versions.states().iter().map(|(version, state)| (*version, state.name())).collect()
    }

    #[track_caller]
    fn until(&self, states: &[(u64, &str)]) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.states() != states {
            assert!(Instant::now() < end, "{:?} did not become {states:?}", self.states());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Why a version cannot be served; nothing if it may be yet.
    fn failure(&self, version: u64) -> Option<String> {
        match self.versions.states().get(&version) {
            Some(State::End(Some(error))) => Some(error.to_string()),
            _ => None,
        }
    }

    #[track_caller]
    fn error(&self, version: u64) -> String {
        self.failure(version).expect("it cannot be served")
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.outbox.send(Message::Stop).ok();
        let end = Instant::now();
        let joined = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(joined.is_some_and(|joined| joined.is_ok()), "the thread has died");
            assert!(end.elapsed() < Duration::from_secs(5), "it waits for a load");
        }
    }
}

fn put(dir: &Path, config: &str) {
    fs_err::create_dir_all(dir).unwrap();
    fs_err::write(dir.join("config.json"), config).unwrap();
}

fn often() -> Options {
    Options { poll_interval: Duration::from_millis(20), ..Options::default() }
}

/// So rarely that it does not happen.
fn rarely() -> Options {
    Options { poll_interval: Duration::from_hours(10), ..Options::default() }
}

#[test]
fn a_load_that_fails_in_whatever_way_takes_nothing_away() {
    let watched = Watched::new(often());
    watched.put(1, "serve");
    watched.until(&[(1, "AVAILABLE")]);
    watched.put(2, "panic");
    watched.until(&[(1, "AVAILABLE"), (2, "END")]);
    assert!(watched.error(2).contains("fault of the program: as it was told"), "{}", watched.error(2));
    watched.put(3, "the weights are damaged");
    watched.until(&[(1, "AVAILABLE"), (2, "END"), (3, "END")]);
    assert_eq!(watched.error(3), "the weights are damaged");
    assert!(!watched.versions.is_unwatched());
    watched.put(3, "serve");
    watched.until(&[(1, "END"), (2, "END"), (3, "AVAILABLE")]);
    // Those that have ended are told of for as long as they have a directory.
    for version in [1, 2] {
        fs_err::remove_dir_all(watched.path(version)).unwrap();
    }
    watched.until(&[(3, "AVAILABLE")]);
}

#[test]
fn a_load_that_does_not_end_is_given_up() {
    let watched = Watched::new(Options { load_timeout: Duration::from_millis(300), ..often() });
    watched.put(1, "hang");
    watched.until(&[(1, "LOADING")]);
    let (version, progress) = watched.versions.loading().unwrap();
    assert!(version == 1 && progress.to_string().starts_with("reading its files"), "{progress}");
    watched.until(&[(1, "END")]);
    assert!(watched.error(1).contains("--load-timeout") && watched.error(1).contains("reading its files"));
    watched.put(2, "serve");
    watched.until(&[(1, "END"), (2, "AVAILABLE")]);
}

#[test]
fn nobody_waits_for_a_load_at_the_end() {
    let watched = Watched::new(often());
    watched.put(1, "hang");
    watched.until(&[(1, "LOADING")]);
    // Dropping it tells how long that takes.
}

#[test]
fn a_version_counts_when_nothing_in_it_changes_any_more() {
    let options = Options { poll_interval: Duration::from_secs(1), ..Options::default() };
    let watched = Watched::new(options);
    watched.put(1, "half of it");
    // A copy into a file that has its full length from the beginning, slower than the interval.
    for i in 0..20_u8 {
        fs_err::write(watched.path(1).join("model.safetensors"), [i; 8]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(watched.states(), []);
    }
    watched.put(1, "serve");
    watched.until(&[(1, "AVAILABLE")]);
}

#[test]
fn old_versions_are_loaded_at_once_when_the_program_starts() {
    let dir = TempDir::new().unwrap();
    put(&dir.path().join("models/1"), "serve");
    let rest = Duration::from_secs(2);
    std::thread::sleep(rest);
    let began = Instant::now();
    let watched = Watched::over(dir, Options { poll_interval: rest, ..Options::default() });
    while watched.states().is_empty() {
        assert!(began.elapsed() < rest / 2, "it waits");
        std::thread::sleep(Duration::from_millis(5));
    }
    watched.until(&[(1, "AVAILABLE")]);
}

#[test]
fn who_asks_for_a_look_says_that_versions_are_whole() {
    let watched = Watched::new(rarely());
    watched.put(1, "serve");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(watched.states(), []);
    watched.outbox.send(Message::Look).unwrap();
    watched.until(&[(1, "AVAILABLE")]);
}

#[test]
fn a_manifest_says_what_is_whole() {
    let watched = Watched::new(often());
    let manifest = |bytes: usize, hash: &str| {
        let text = json!({ "files": { "model.safetensors": { "size": bytes, "sha256": hash } } }).to_string();
        fs_err::write(watched.path(1).join("MANIFEST.json"), text).unwrap();
    };
    watched.put(1, "serve");
    manifest(7, &"0".repeat(64));
    watched.until(&[(1, "END")]);
    assert!(watched.error(1).contains("model.safetensors, which MANIFEST.json names, is not there"));
    fs_err::write(watched.path(1).join("model.safetensors"), "weights").unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while !watched.failure(1).is_some_and(|error| error.contains("copy it again")) {
        assert!(Instant::now() < end, "other bytes are taken: {:?}", watched.states());
        std::thread::sleep(Duration::from_millis(2));
    }
    // printf weights | sha256sum
    manifest(7, "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c");
    watched.until(&[(1, "AVAILABLE")]);
}

#[test]
fn caches_on_disk_go_with_their_versions() {
    let dir = TempDir::new().unwrap();
    let caches = dir.path().join("caches");
    let disk = Disk { dir: caches.clone(), quota_bytes: 1 << 20 };
    let watched = Watched::over(dir, Options { disk: Some(disk), ..often() });
    watched.put(1, "serve");
    watched.until(&[(1, "AVAILABLE")]);
    assert!(caches.join("version-1/lock").exists());
    watched.put(2, "serve");
    watched.until(&[(1, "END"), (2, "AVAILABLE")]);
    let end = Instant::now() + Duration::from_secs(10);
    while caches.join("version-1").exists() {
        assert!(Instant::now() < end, "it stays");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(caches.join("version-2/lock").exists());
}

#[test]
fn a_watch_that_dies_is_noticed() {
    let versions = Arc::new(Versions::new());
    let of_thread = versions.clone();
    let died = std::thread::spawn(move || {
        let _alarm = Alarm(of_thread);
        panic!("a fault of the program");
    });
    assert!(died.join().is_err() && versions.is_unwatched());
}
