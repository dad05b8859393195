//! Writes that are interrupted: by an error of the writer, and by the death of the process.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use checkpoint::{Error, clean_leftovers, write_dir_atomically, write_file_atomically};

const NUM_FILES: usize = 4;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs_err::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Writes `content` into the first `num_files` files of a checkpoint, one of them in a directory of its own.
fn fill(dir: &Path, content: &str, num_files: usize) {
    fs_err::create_dir(dir.join("state")).unwrap();
    for i in 0..num_files {
        let name = if i == 1 { "state/1".into() } else { i.to_string() };
        fs_err::write(dir.join(name), content.repeat(1000)).unwrap();
    }
}

/// The content of a complete checkpoint.
#[track_caller]
fn read_whole(dir: &Path) -> String {
    let files: Vec<String> =
        ["0", "state/1", "2", "3"].iter().map(|name| fs_err::read_to_string(dir.join(name)).unwrap()).collect();
    assert!(files.iter().all(|f| *f == files[0]), "a mixture of two checkpoints");
    files[0][..files[0].len() / 1000].into()
}

fn save(path: &Path, content: &str) {
    write_dir_atomically(path, |dir| {
        fill(dir, content, NUM_FILES);
        Ok::<_, Error>(())
    })
    .unwrap();
}

#[test]
fn a_directory_appears_and_is_replaced() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("step-1");
    save(&path, "first");
    assert_eq!(read_whole(&path), "first");
    let old_file = fs_err::read(path.join("0")).unwrap();
    let result = write_dir_atomically(&path, |dir| {
        assert_eq!(read_whole(&path), "first");
        fill(dir, "second", NUM_FILES);
        Ok::<_, Error>(7)
    });
    assert_eq!(result.unwrap(), 7);
    assert_eq!(read_whole(&path), "second");
    assert_ne!(fs_err::read(path.join("0")).unwrap(), old_file);
    assert_eq!(names(parent.path()), ["step-1"]);
}

#[test]
fn a_writer_that_fails_at_any_step_leaves_what_was_there() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("step-1");
    for before in [None, Some("old")] {
        if let Some(content) = before {
            save(&path, content);
        }
        for step in 0..=NUM_FILES {
            let result = write_dir_atomically(&path, |dir| {
                fill(dir, "new", step);
                Err::<(), _>(Error::NoModel { dir: dir.into() })
            });
            assert!(matches!(result, Err(Error::NoModel { .. })));
            match before {
                None => assert_eq!(names(parent.path()), [""; 0]),
                Some(content) => {
                    assert_eq!(read_whole(&path), content);
                    assert_eq!(names(parent.path()), ["step-1"]);
                }
            }
        }
    }
}

#[test]
fn a_writer_that_panics_leaves_something_recognisable() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("step-1");
    save(&path, "old");
    let panicked = std::panic::catch_unwind(|| {
        write_dir_atomically(&path, |dir| -> Result<(), Error> {
            fill(dir, "new", 2);
            panic!("in the middle of a save");
        })
    });
    assert!(panicked.is_err());
    assert_eq!(read_whole(&path), "old");
    assert_eq!(clean_leftovers(parent.path()).unwrap(), [parent.path().join(".step-1.hadal-partial")]);
    assert_eq!(names(parent.path()), ["step-1"]);
    assert_eq!(clean_leftovers(parent.path()).unwrap(), [""; 0].map(Into::<std::path::PathBuf>::into));
}

#[test]
fn a_leftover_does_not_get_into_the_next_save() {
    let parent = tempfile::tempdir().unwrap();
    let leftover = parent.path().join(".step-1.hadal-partial");
    fs_err::create_dir(&leftover).unwrap();
    fs_err::write(leftover.join("stale"), "").unwrap();
    save(&parent.path().join("step-1"), "new");
    assert_eq!(names(&parent.path().join("step-1")), ["0", "2", "3", "state"]);
}

#[test]
fn cleaning_leaves_the_files_of_others() {
    let parent = tempfile::tempdir().unwrap();
    for name in [".hidden", "hadal-partial", "x.hadal-partial", ".x.old", ".x.partial", "step-1"] {
        fs_err::write(parent.path().join(name), "").unwrap();
    }
    let before = names(parent.path());
    assert!(clean_leftovers(parent.path()).unwrap().is_empty());
    assert_eq!(names(parent.path()), before);
}

#[test]
fn files_are_replaced_and_their_leftovers_cleaned() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("latest");
    for content in ["step-1", "step-2", ""] {
        fs_err::write(parent.path().join(".latest.hadal-partial"), "of a crash").unwrap();
        write_file_atomically(&path, content.as_bytes()).unwrap();
        assert_eq!(fs_err::read_to_string(&path).unwrap(), content);
        assert_eq!(names(parent.path()), ["latest"]);
    }
}

#[test]
fn targets_that_cannot_be_are_refused() {
    let parent = tempfile::tempdir().unwrap();
    fs_err::write(parent.path().join("file"), "kept").unwrap();
    let result = write_dir_atomically(parent.path().join("file"), |_| Ok::<_, Error>(()));
    assert!(matches!(result, Err(Error::Target { .. })));
    assert_eq!(fs_err::read_to_string(parent.path().join("file")).unwrap(), "kept");
    assert!(matches!(write_file_atomically(parent.path().join(".."), b""), Err(Error::Target { .. })));
    assert!(matches!(write_file_atomically(parent.path().join("no/where"), b""), Err(Error::Io(_))));
    fs_err::create_dir(parent.path().join("dir")).unwrap();
    assert!(matches!(write_file_atomically(parent.path().join("dir"), b""), Err(Error::Io(_))));
}

/// Not a test by itself: what the next one kills. It saves into its working directory without end.
#[test]
#[ignore = "runs until it is killed"]
fn child_that_saves() {
    for generation in 0..1_000_000 {
        let content = format!("{generation:06}");
        save(Path::new("step-1"), &content);
        write_file_atomically("latest", content.repeat(1000).as_bytes()).unwrap();
        println!("saved");
        std::io::stdout().flush().unwrap();
    }
}

#[test]
fn a_process_killed_at_any_moment_leaves_the_old_or_the_new() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("step-1");
    for round in 0..24 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "replacing::child_that_saves", "--ignored", "--nocapture"])
            .current_dir(parent.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It has begun to replace when it has saved once; from there on, any moment will do.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("saved")));
        std::thread::sleep(Duration::from_micros(700 * round));
        child.kill().unwrap();
        child.wait().unwrap();

        let content = read_whole(&path);
        let latest = fs_err::read_to_string(parent.path().join("latest")).unwrap();
        assert_eq!(latest, latest[..6].repeat(1000));
        let distance = content.parse::<usize>().unwrap() - latest[..6].parse::<usize>().unwrap();
        assert!(distance <= 1, "`latest` is {distance} saves behind");
        clean_leftovers(parent.path()).unwrap();
        assert_eq!(names(parent.path()), ["latest", "step-1"]);
        assert_eq!(read_whole(&path), content);
    }
}
