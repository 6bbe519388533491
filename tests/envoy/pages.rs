//! Pages of the manual, taken apart: their blocks, and the commands in these with what they must print.

use std::process::Command;

/// A block of a page: its language and its text.
pub struct Block {
    pub language: String,
    pub text: String,
}

/// A command of a `console` block.
pub struct Step {
    pub command: String,
    /// What it prints. Without a line to print, any output will do.
    pub output: String,
}

/// The fenced blocks of a page, from top to bottom.
pub fn blocks(page: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            found.push(Block {
                language: language.to_owned(),
                text: text.join("\n"),
            });
        }
    }
    found
}

/// The commands of a `console` block: the lines that begin with `$`.
pub fn steps(text: &str) -> Vec<Step> {
    let mut found: Vec<(String, Vec<&str>)> = Vec::new();
    for line in text.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => found.push((command.to_owned(), Vec::new())),
            None => found.last_mut().expect("a command first").1.push(line),
        }
    }
    let joined = found.into_iter();
    joined
        .map(|(command, lines)| Step {
            command,
            output: lines.join("\n"),
        })
        .collect()
}

/// Runs a command. Returns what it printed, or in words how it failed. What it asks may run on this thread's runtime.
pub async fn outcome(mut command: Command) -> Result<String, String> {
    let ended = tokio::task::spawn_blocking(move || command.output()).await;
    let ended = ended.expect("no panic").expect("the program starts");
    let printed = String::from_utf8_lossy(&ended.stdout).trim_end().to_owned();
    if ended.status.success() {
        Ok(printed)
    } else {
        let said = String::from_utf8_lossy(&ended.stderr);
        Err(format!("{} {printed}{said}", ended.status))
    }
}
