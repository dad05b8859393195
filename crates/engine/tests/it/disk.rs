//! The cache on disk: what it gives back, what it does not take, how much it holds and what it survives.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use engine::{DiskCache, DiskError, DiskOptions, DiskStats, Engine, Handle, Limits, Request};
use model::CacheKind;

use crate::support::{ask, ask_all, ask_alone, client, ctx, ids, model, new_model, request};

const MODEL: [u8; 32] = [1; 32];

/// Every prompt is written.
fn options(dir: &Path) -> DiskOptions {
    DiskOptions { min_prompt_tokens: 0, ..DiskOptions::new(dir, 1 << 30, MODEL) }
}

/// Answers of a new process to one request after the other: cached tokens of each, and the numbers at the end.
fn run(options: DiskOptions, requests: &[Request]) -> (Vec<usize>, DiskStats) {
    let ctx = ctx();
    let disk = Arc::new(DiskCache::open(options, model()).unwrap());
    let mut engine = Engine::new(&ctx, model(), Limits::default()).with_disk(disk.clone());
    let cached = requests.iter().map(|request| {
        let (drawn, end) = ask(&mut engine, request);
        assert!(drawn == ask_alone(model(), request), "an answer is the same with a cache on disk");
        // What is written later is not older.
        disk.flush();
        end.usage.cached
    });
    let cached = cached.collect();
    engine.save();
    (cached, disk.stats())
}

/// All files of blocks.
fn files(dir: &Path) -> Vec<PathBuf> {
    let list = |dir: &Path| fs_err::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let folders = list(dir).into_iter().filter(|path| path.is_dir());
    folders.flat_map(|folder| list(&folder)).filter(|path| path.extension().is_some_and(|e| e == "latents")).collect()
}

/// The files of one prompt, in the order of its blocks.
fn chain(dir: &Path) -> Vec<PathBuf> {
    let parts = |path: &PathBuf| {
        let (key, parent) = path.file_stem().unwrap().to_str().unwrap().split_once('-').unwrap();
        (key.to_owned(), parent.to_owned())
    };
    let by_parent: BTreeMap<String, PathBuf> = files(dir).into_iter().map(|path| (parts(&path).1, path)).collect();
    let keys: Vec<String> = by_parent.values().map(|path| parts(path).0).collect();
    let mut next = by_parent.iter().find(|(parent, _)| !keys.contains(parent)).map(|(_, path)| path);
    let mut chain = Vec::new();
    while let Some(path) = next {
        chain.push(path.clone());
        next = by_parent.get(&parts(path).0);
    }
    assert_eq!(chain.len(), by_parent.len(), "there is one prompt");
    chain
}

/// Three whole blocks and a little.
fn prompt() -> Request {
    request(ids(200, 1), 12)
}

#[test]
fn a_prompt_is_known_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let longer = Request { prompt: [prompt().prompt, ids(100, 2)].concat(), ..prompt() };
    let salted = Request { salt: 1, ..prompt() };
    let (cached, stats) = run(options(dir.path()), &[prompt()]);
    assert_eq!((cached, stats.writes, stats.hits, stats.blocks), (vec![0], 3, 0, 3));
    assert_eq!(files(dir.path()).len(), 3);

    // The second one finds in memory what the first one has read.
    let (cached, stats) = run(options(dir.path()), &[longer.clone(), prompt(), salted]);
    assert_eq!((cached, stats.hits, stats.writes), (vec![192, 192, 0], 3, 4));
    let bytes: u64 = files(dir.path()).iter().map(|path| fs_err::metadata(path).unwrap().len()).sum();
    assert_eq!((stats.bytes, stats.read_bytes), (bytes, 3 * bytes / 7));
    assert_eq!(stats.blocks, 7);

    let (cached, stats) = run(DiskOptions { model: [2; 32], ..options(dir.path()) }, &[longer]);
    assert_eq!((cached, stats.hits, stats.damaged), (vec![0], 0, 0), "another model");
}

#[test]
fn another_way_to_keep_latents_is_another_cache() {
    let dir = tempfile::tempdir().unwrap();
    let (ctx, kinds) = (ctx(), [CacheKind::F32, CacheKind::Bf16, CacheKind::Fp8]);
    for round in 0..2 {
        for kind in kinds {
            let model = new_model(kind);
            let disk = Arc::new(DiskCache::open(options(dir.path()), &model).unwrap());
            let mut engine = Engine::new(&ctx, &model, Limits::default()).with_disk(disk);
            let (drawn, end) = ask(&mut engine, &prompt());
            assert!(drawn == ask_alone(&model, &prompt()), "{kind:?}");
            assert_eq!(end.usage.cached, 192 * round, "{kind:?}");
        }
    }
}

#[test]
fn those_who_come_together_read_a_block_once() {
    let dir = tempfile::tempdir().unwrap();
    run(options(dir.path()), &[prompt()]);
    let ctx = ctx();
    // A block in a step, so that all of them are there before the first one has read its own.
    let options = DiskOptions { step_bytes: 1, ..options(dir.path()) };
    let disk = Arc::new(DiskCache::open(options, model()).unwrap());
    let mut engine = Engine::new(&ctx, model(), Limits::default()).with_disk(disk.clone());
    let all = ask_all(&mut engine, &[prompt(), prompt(), prompt()]);
    assert_eq!(all.iter().map(|(_, end)| end.usage.cached).collect::<Vec<_>>(), [192; 3]);
    assert_eq!(disk.stats().hits, 3);
    let want = ask_alone(model(), &prompt());
    assert!(all.iter().all(|(drawn, _)| *drawn == want));
}

#[test]
fn answers_flow_while_a_prompt_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let long = request(ids(600, 3), 1);
    run(options(dir.path()), std::slice::from_ref(&long));
    let ctx = ctx();
    let options = DiskOptions { step_bytes: 1, ..options(dir.path()) };
    let disk = Arc::new(DiskCache::open(options, model()).unwrap());
    let mut engine = Engine::new(&ctx, model(), Limits::default()).with_disk(disk.clone());
    let beside = crate::support::add(&mut engine, &request(ids(5, 1), 40));
    engine.step();
    let _long = crate::support::add(&mut engine, &long);
    for step in 1..=9 {
        beside.so_far();
        engine.step();
        assert_eq!(disk.stats().hits, step);
        assert!(!beside.so_far().is_empty(), "step {step}");
    }
}

type Damage = fn(&mut Vec<u8>);

/// What may have happened to a file.
const DAMAGES: &[(&str, Damage)] = &[
    ("a flipped bit in the magic", |file| file[0] ^= 1),
    ("another version", |file| file[8] = 9),
    ("a flipped bit in the checksum", |file| file[13] ^= 4),
    ("a flipped bit in the key", |file| file[30] ^= 8),
    ("a flipped bit in the tokens", |file| file[100] ^= 1),
    ("a flipped bit in the latents", |file| file[5000] ^= 16),
    ("a flipped bit at the end", |file| *file.last_mut().unwrap() ^= 1),
    ("half of it", |file| file.truncate(file.len() / 2)),
    ("no header", |file| file.truncate(20)),
    ("nothing", Vec::clear),
    ("a byte more", |file| file.push(0)),
    ("garbage", |file| file.iter_mut().zip(0_u32..).for_each(|(byte, i)| *byte = (i * i / 7) as u8)),
    ("zeros", |file| file.fill(0)),
];

#[test]
fn a_damaged_file_is_computed_again() {
    let dir = tempfile::tempdir().unwrap();
    run(options(dir.path()), &[prompt()]);
    for (what, damage) in DAMAGES {
        for (at, path) in chain(dir.path()).iter().enumerate() {
            let mut file = fs_err::read(path).unwrap();
            damage(&mut file);
            fs_err::write(path, file).unwrap();
            // `run` compares the answer. What was damaged is written again.
            let (cached, stats) = run(options(dir.path()), &[prompt()]);
            assert_eq!((cached, stats.damaged, stats.writes), (vec![64 * at], 1, 1), "{what}, block {at}");
            let (cached, stats) = run(options(dir.path()), &[prompt()]);
            assert_eq!((cached, stats.damaged, stats.writes), (vec![192], 0, 0), "{what}, block {at}");
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_computed_again() {
    let dir = tempfile::tempdir().unwrap();
    run(options(dir.path()), &[prompt()]);
    let paths = chain(dir.path());
    fs_err::remove_file(&paths[0]).unwrap();
    fs_err::create_dir(&paths[0]).unwrap();
    fs_err::remove_file(&paths[2]).unwrap();
    let (cached, stats) = run(options(dir.path()), &[prompt()]);
    assert_eq!((cached, stats.damaged), (vec![0], 0), "what is no file is not seen");
    assert_eq!((stats.failed, stats.writes), (2, 1), "nor is it replaced, when it was made and at the end");
}

#[test]
fn a_block_under_the_name_of_another_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    run(options(dir.path()), &[prompt()]);
    let paths = chain(dir.path());
    for (a, b) in [(0, 1), (1, 2), (0, 2)] {
        let (first, second) = (fs_err::read(&paths[a]).unwrap(), fs_err::read(&paths[b]).unwrap());
        fs_err::write(&paths[a], second).unwrap();
        fs_err::write(&paths[b], first).unwrap();
        let (cached, stats) = run(options(dir.path()), &[prompt()]);
        assert_eq!((cached, stats.damaged), (vec![64 * a], 1), "{a} and {b}");
        // The other one is found when it is its turn.
        let (cached, stats) = run(options(dir.path()), &[prompt()]);
        assert_eq!((cached, stats.damaged), (vec![64 * b], 1), "{a} and {b}");
        assert_eq!(run(options(dir.path()), &[prompt()]).0, [192]);
    }
    // The same tokens, of another model.
    let other = tempfile::tempdir().unwrap();
    run(DiskOptions { model: [2; 32], ..options(other.path()) }, &[prompt()]);
    fs_err::copy(&chain(other.path())[1], &paths[1]).unwrap();
    let (cached, stats) = run(options(dir.path()), &[prompt()]);
    assert_eq!((cached, stats.damaged), (vec![64], 1));
}

#[test]
fn a_file_that_vanishes_is_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    run(options(dir.path()), &[prompt()]);
    let ctx = ctx();
    let disk = Arc::new(DiskCache::open(options(dir.path()), model()).unwrap());
    let mut engine = Engine::new(&ctx, model(), Limits::default()).with_disk(disk.clone());
    fs_err::remove_file(&chain(dir.path())[1]).unwrap();
    assert_eq!(ask(&mut engine, &prompt()).1.usage.cached, 64);
    engine.save();
    let DiskStats { damaged, hits, writes, blocks, .. } = disk.stats();
    assert_eq!((damaged, hits, writes, blocks), (0, 1, 1, 3));
}

/// The bytes of one file.
fn block_bytes() -> u64 {
    model().cache_block_bytes() as u64 + 352
}

/// Two whole blocks that no other prompt has.
fn pair(stream: u64) -> Request {
    request(ids(140, stream), 1)
}

#[test]
fn the_quota_holds_and_what_was_used_longest_ago_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let quota_bytes = 5 * block_bytes();
    let options = || DiskOptions { quota_bytes, ..options(dir.path()) };
    // The third one makes room for itself at the expense of the end of the second: the first was used after that.
    let (cached, stats) = run(options(), &[pair(1), pair(2), pair(1), pair(3)]);
    assert_eq!((cached, stats.evictions, stats.writes), (vec![0, 0, 128, 0], 1, 6));
    assert_eq!((stats.bytes, stats.quota_bytes, stats.blocks), (quota_bytes, quota_bytes, 5));
    let bytes: u64 = files(dir.path()).iter().map(|path| fs_err::metadata(path).unwrap().len()).sum();
    assert_eq!(bytes, quota_bytes);

    // What was used last is known after a restart: 1 and 3 by the one before, then 2, which writes its second block again
    // at the expense of the end of 1. With 1 as the oldest, 4 takes the rest of it and the end of 3.
    let (cached, stats) = run(options(), &[pair(3), pair(2)]);
    assert_eq!((cached, stats.hits, stats.evictions), (vec![128, 64], 3, 1));
    let (cached, _) = run(options(), &[pair(4)]);
    assert_eq!(cached, [0]);
    let smaller = DiskOptions { quota_bytes: 4 * block_bytes(), ..options() };
    let (cached, stats) = run(smaller, &[pair(2), pair(4)]);
    assert_eq!((cached, stats.evictions, stats.blocks), (vec![128, 128], 1, 4));
}

#[test]
fn a_prompt_beyond_the_quota_keeps_its_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let options = || DiskOptions { quota_bytes: 4 * block_bytes(), ..options(dir.path()) };
    let long = request(ids(600, 9), 1);
    let (_, stats) = run(options(), &[pair(1), long.clone()]);
    assert_eq!((stats.blocks, stats.evictions), (4, 2));
    assert!(stats.skipped >= 5, "{stats:?}");
    let (cached, _) = run(options(), &[long]);
    assert_eq!(cached, [256]);
}

#[test]
fn short_prompts_do_not_push_out_a_long_one() {
    let dir = tempfile::tempdir().unwrap();
    let options = || DiskOptions {
        quota_bytes: 10 * block_bytes(),
        min_prompt_tokens: 300,
        ..DiskOptions::new(dir.path(), 0, MODEL)
    };
    let long = request(ids(600, 9), 1);
    let mut requests: Vec<Request> = (0..20).map(|i| request(ids(150 + i, 20 + i as u64), 1)).collect();
    requests.insert(0, long.clone());
    let (_, stats) = run(options(), &requests);
    assert_eq!((stats.writes, stats.evictions, stats.skipped), (9, 0, 0));
    // A short one may use what a long one has left, and a long one keeps what a short one has made.
    let short = Request { prompt: long.prompt[..150].to_vec(), ..long.clone() };
    let begun = Request { prompt: ids(310, 20), ..long.clone() };
    let (cached, _) = run(options(), &[short]);
    assert_eq!(cached, [128]);
    let wide = DiskOptions { quota_bytes: 1 << 30, ..options() };
    let (cached, stats) = run(wide, &[request(ids(150, 20), 1), begun.clone()]);
    assert_eq!((cached, stats.writes), (vec![0, 128], 4), "two that were known, two that were new");
    assert_eq!(run(DiskOptions { quota_bytes: 1 << 30, ..options() }, &[begun]).0, [256]);
}

#[test]
fn what_had_no_room_in_the_queue_is_written_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let narrow = || DiskOptions { queue_bytes: 0, ..options(dir.path()) };
    let requests: Vec<Request> = (0..4).map(|i| request(ids(600, i), 1)).collect();
    let (_, stats) = run(narrow(), &requests);
    assert_eq!((stats.writes, stats.blocks), (36, 36));
    let (cached, stats) = run(narrow(), &requests);
    assert_eq!((cached, stats.writes), (vec![576; 4], 0));
}

#[test]
fn what_leaves_memory_stays_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = ctx();
    let block = (model().cache_block_bytes() + model().new_draft().unwrap().block_bytes()) as u64;
    // Memory for one prompt and a half.
    let limits = Limits { cache_bytes: 15 * block, ..Limits::default() };
    let disk = Arc::new(DiskCache::open(options(dir.path()), model()).unwrap());
    let mut engine = Engine::new(&ctx, model(), limits).with_disk(disk.clone());
    let requests: Vec<Request> = (0..3).map(|i| request(ids(600, i), 5)).collect();
    for round in 0..2 {
        for request in &requests {
            let (drawn, end) = ask(&mut engine, request);
            disk.flush();
            assert!(drawn == ask_alone(model(), request));
            assert_eq!(end.usage.cached, 576 * round);
        }
    }
    let stats = engine.stats();
    assert!(stats.evicted_blocks >= 30, "{stats:?}");
    let disk = stats.disk.unwrap();
    assert_eq!(disk.writes, 27, "a block is written once");
    assert!(disk.hits >= 15, "{disk:?}");
}

#[test]
fn an_engine_on_a_thread_writes_before_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let model = Arc::new(new_model(CacheKind::Bf16));
    for cached in [0, 192] {
        let options = DiskOptions { queue_bytes: 0, ..options(dir.path()) };
        let disk = Arc::new(DiskCache::open(options, &model).unwrap());
        let handle = Handle::start_with(ctx(), model.clone(), Limits::default(), Some(disk)).unwrap();
        let (sink, answer) = client();
        handle.submit(prompt(), sink).unwrap();
        assert_eq!(answer.all().1.unwrap().usage.cached, cached);
        assert!(handle.stats().disk.is_some());
    }
}

#[test]
fn a_directory_is_for_one_at_a_time_and_what_else_is_in_it_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/inside");
    run(options(&path), &[prompt()]);
    let folder = files(&path)[0].parent().unwrap().to_owned();
    for other in [path.join("notes.txt"), folder.join("notes.txt"), folder.join("a-b.latents"), path.join("zz")] {
        fs_err::write(other, "not ours").unwrap();
    }
    fs_err::write(path.join("partial"), "of a process that was killed").unwrap();
    let disk = DiskCache::open(options(&path), model()).unwrap();
    let again = DiskCache::open(options(&path), model());
    assert!(matches!(again, Err(DiskError::Locked { .. })), "{:?}", again.err());
    assert_eq!(disk.stats().blocks, 3);
    drop(disk);
    assert_eq!(run(options(&path), &[prompt()]).0, [192]);
    assert!(!path.join("partial").exists());
    for other in [path.join("notes.txt"), folder.join("notes.txt"), folder.join("a-b.latents"), path.join("zz")] {
        assert_eq!(fs_err::read_to_string(other).unwrap(), "not ours");
    }

    let few = DiskOptions { quota_bytes: block_bytes() - 1, ..options(&path) };
    let error = DiskCache::open(few, model()).err().unwrap().to_string();
    assert!(error.contains(&format!("one block of 64 tokens has {}", block_bytes())), "{error}");
    let file = DiskCache::open(options(&path.join("notes.txt")), model());
    assert!(matches!(file, Err(DiskError::Io(_))), "{:?}", file.err());
}

#[test]
#[should_panic(expected = "was opened for another model")]
fn a_cache_is_of_its_model() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(DiskCache::open(options(dir.path()), &new_model(CacheKind::F32)).unwrap());
    let _ = Engine::new(&ctx(), model(), Limits::default()).with_disk(disk);
}

#[test]
fn a_directory_that_takes_nothing_does_not_disturb_answers() {
    let dir = tempfile::tempdir().unwrap();
    // Files where folders belong: nobody, not even root, can write behind them.
    for i in 0..=255_u8 {
        fs_err::write(dir.path().join(format!("{i:02x}")), "").unwrap();
    }
    let (cached, stats) = run(options(dir.path()), &[prompt(), prompt()]);
    assert_eq!((cached, stats.writes, stats.bytes), (vec![0, 192], 0, 0));
    assert!(stats.failed >= 3, "{stats:?}");
}

/// Requests of the process that is killed.
fn endless(i: u64) -> Request {
    request(ids(64 * (1 + i as usize % 5) + 3, 1000 + i), 1)
}

/// Runs one of the tests below, which are ignored, in a process of its own whose directory is `dir`.
fn child(dir: &Path, test: &str, shell: &str) -> Command {
    let mut command = Command::new("sh");
    let script = format!("{shell} exec \"$0\" \"$@\"");
    command.args(["-c", &script]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).current_dir(dir).stdout(Stdio::piped());
    command
}

#[cfg(unix)]
#[test]
fn a_killed_process_leaves_a_directory_that_can_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = 0;
    for round in 0..3 {
        let mut process = child(dir.path(), "disk::child_that_is_killed", "").spawn().unwrap();
        // It goes on where the one before was killed, and says what it has done.
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let done = |line: String| line.strip_prefix("answered ").and_then(|n| n.parse::<u64>().ok());
        let last = lines.filter_map(done).find(|&n| n >= first + 12).unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        let kept = files(dir.path()).len();
        let (cached, stats) = run(options(dir.path()), &(first..last).map(endless).collect::<Vec<_>>());
        assert_eq!(stats.damaged, 0, "round {round}");
        assert!(stats.blocks >= kept && kept > 12, "round {round}: {kept} files, {stats:?}");
        // All but those that were still waiting to be written.
        assert!(cached[..8].iter().all(|&n| n > 0), "round {round}: {cached:?}");
        first = last + 1;
        fs_err::write(dir.path().join("first"), first.to_string()).unwrap();
    }
}

#[test]
#[ignore = "a part of another test"]
fn child_that_is_killed() {
    let first = fs_err::read_to_string("first").map_or(0, |text| text.parse().unwrap());
    let ctx = ctx();
    let disk = Arc::new(DiskCache::open(options(Path::new(".")), model()).unwrap());
    let mut engine = Engine::new(&ctx, model(), Limits::default()).with_disk(disk.clone());
    for i in first.. {
        ask(&mut engine, &endless(i));
        if (i - first) % 4 == 3 {
            disk.flush();
        }
        println!("answered {i}");
    }
}

#[cfg(unix)]
#[test]
fn a_full_disk_does_not_disturb_answers() {
    let dir = tempfile::tempdir().unwrap();
    run(options(dir.path()), &[prompt()]);
    // No file may be longer than some thousand bytes, and trying is an error and not the end.
    let output = child(dir.path(), "disk::child_on_a_full_disk", "trap '' XFSZ; ulimit -f 8;").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
    assert_eq!(run(options(dir.path()), &[prompt()]).0, [192], "what was there is there");
}

#[test]
#[ignore = "a part of another test"]
fn child_on_a_full_disk() {
    let (cached, stats) = run(options(Path::new(".")), &[prompt(), pair(5)]);
    assert_eq!((cached, stats.writes, stats.blocks), (vec![192, 0], 0, 3));
    assert!(stats.failed >= 2, "{stats:?}");
    assert!(!Path::new("partial").exists(), "what could not be written whole is removed");
}

#[test]
fn a_directory_goes_with_what_a_cache_has_put_there_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    assert_eq!(DiskCache::remove(&cache).unwrap(), 0, "there is none");
    run(options(&cache), &[prompt()]);
    let bytes: u64 = files(&cache).iter().map(|path| fs_err::metadata(path).unwrap().len()).sum();
    let in_use = DiskCache::open(options(&cache), model()).unwrap();
    assert_eq!(DiskCache::remove(&cache).unwrap(), 0, "it is in use");
    assert_eq!(files(&cache).len(), 3);
    drop(in_use);
    // Somebody else's, here and among the blocks.
    let theirs = [cache.join("notes.txt"), files(&cache)[0].with_file_name("README")];
    for path in &theirs {
        fs_err::write(path, "not a block").unwrap();
    }
    assert_eq!(DiskCache::remove(&cache).unwrap(), bytes);
    assert_eq!(files(&cache).len(), 0);
    assert!(theirs.iter().all(|path| path.exists()));
    assert_eq!(DiskCache::remove(&cache).unwrap(), 0, "without the lock it is no cache");

    let cache = dir.path().join("other");
    run(options(&cache), &[prompt()]);
    assert!(DiskCache::remove(&cache).unwrap() > 0 && !cache.exists());
}
