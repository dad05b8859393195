//! Cargo, run at the root of the workspace.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// Runs `cargo` with these arguments; what it prints goes where our output goes.
pub(crate) fn run(args: &[&str]) -> Result<(), Box<dyn Error>> {
    let status = Command::new("cargo").args(args).current_dir(root()).status()?;
    if status.success() { Ok(()) } else { Err(format!("`cargo {}` failed ({status})", args.join(" ")).into()) }
}

/// Builds the `hadal` program and says where it is.
///
/// It is built with the features that the whole workspace asks of its dependencies, as the tests are, so that neither
/// build undoes the other.
pub(crate) fn build_hadal() -> Result<PathBuf, Box<dyn Error>> {
    let args = ["build", "--quiet", "--workspace", "--bin", "hadal", "--message-format", "json-render-diagnostics"];
    let output = Command::new("cargo").args(args).current_dir(root()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("`cargo {}` failed ({})", args.join(" "), output.status).into());
    }
    for line in String::from_utf8(output.stdout)?.lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        if message["target"]["name"] == "hadal"
            && let Some(path) = message["executable"].as_str()
        {
            return Ok(path.into());
        }
    }
    Err("cargo built no program called hadal".into())
}
