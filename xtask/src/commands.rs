//! The reference page of commands: what the program says of itself.

use std::error::Error;
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// The page, from the help texts of the program at `hadal`.
pub(crate) fn markdown(hadal: &Path) -> Result<String, Box<dyn Error>> {
    let overview = help(hadal, &[])?;
    let mut page = format!("# Commands\n\n```text\n{overview}\n```\n");
    describe(hadal, &[], &overview, &mut page)?;
    Ok(page)
}

/// Adds the commands that `overview`, the help text of `parent`, lists, and those below them.
fn describe(hadal: &Path, parent: &[&str], overview: &str, page: &mut String) -> Result<(), Box<dyn Error>> {
    for name in subcommands(overview) {
        let command = [parent, &[name]].concat();
        let text = help(hadal, &command)?;
        write!(page, "\n## hadal {}\n\n```text\n{text}\n```\n", command.join(" "))?;
        describe(hadal, &command, &text, page)?;
    }
    Ok(())
}

fn help(hadal: &Path, command: &[&str]) -> Result<String, Box<dyn Error>> {
    // Neither a terminal nor COLUMNS may decide where lines are broken.
    let output = Command::new(hadal)
        .args(command)
        .arg("--help")
        .env("COLUMNS", "100")
        .env_remove("LINES")
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        return Err(format!("`hadal {} --help` failed ({})", command.join(" "), output.status).into());
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_owned())
}

/// The names in the overview's list of commands, less `help`, which only repeats the others.
fn subcommands(overview: &str) -> impl Iterator<Item = &str> {
    let list = overview.lines().skip_while(|line| *line != "Commands:").skip(1);
    let entries = list.take_while(|line| !line.is_empty());
    // A name stands two blanks in; what continues a description stands further in.
    let names = entries.filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help")
}

#[cfg(test)]
mod tests {
    use super::subcommands;

    #[test]
    fn commands_are_the_words_of_the_first_column() {
        let overview = "Does it.\n\nUsage: x <COMMAND>\n\nCommands:\n  one   Starts,\n        and goes on\n  two   Ends\n  \
                        help  Print this\n\nOptions:\n  -h  Help";
        assert_eq!(subcommands(overview).collect::<Vec<_>>(), ["one", "two"]);
    }
}
