//! The tests of the whole program with other programs: official client libraries, a browser, Prometheus, proxies.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo;

/// Runs `e2e/` with pytest, in a virtual environment that is made for it below the target directory.
pub(crate) fn run(arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    let hadal = cargo::build_hadal()?;
    let target = hadal.ancestors().nth(2).ok_or("the program lies in no target directory")?;
    let python = environment(&target.join("e2e"))?;
    eprintln!("e2e: tests");
    let pytest = |how: &[&str]| {
        let mut pytest = Command::new(&python);
        pytest.args(["-m", "pytest", "e2e", "-q"]).args(how).args(arguments);
        pytest.current_dir(cargo::root()).env("HADAL_BIN", &hadal).status()
    };
    if pytest(&["-n", "2"])?.success() {
        return Ok(());
    }
    // Some tests hold a server to times, and others keep both cores busy beside them. What fails gets a try alone.
    eprintln!("e2e: those that failed, alone");
    let alone = pytest(&["--last-failed", "--last-failed-no-failures", "none"])?;
    if alone.success() { Ok(()) } else { Err(format!("the end-to-end tests failed ({alone})").into()) }
}

/// A Python with the packages that the tests need.
fn environment(dir: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let python = dir.join("bin/python");
    if !python.exists() {
        checked(Command::new("python3").args(["-m", "venv"]).arg(dir))?;
    }
    eprintln!("e2e: packages");
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "e2e/requirements.txt"]);
    checked(pip.current_dir(cargo::root()))?;
    Ok(python)
}

fn checked(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed ({status})").into()) }
}
