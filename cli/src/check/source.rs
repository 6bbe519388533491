//! Reading files, of any size and content, with bounded work.

use std::{
    fs::File,
    io::{self, ErrorKind, Read},
};

use crate::{
    arguments,
    yaml::{self, MAX_BYTES, Tree},
};

/// Why a file could not be read.
pub struct Fault {
    /// The file, as the user calls it.
    pub file: String,
    /// Line and column, if the fault has a place.
    pub position: Option<(usize, usize)>,
    /// Why, in one line.
    pub message: String,
}

impl Fault {
    /// No file uses the module. That is more likely a mistake than intended.
    pub fn without_use(files: &[String]) -> Self {
        let names = files.iter().map(|file| name(file));
        let names: Vec<&str> = names.collect();
        Self::new(
            &names.join(", "),
            "there is no use of the module in it: give a file that has the filter `envoy.filters.http.wasm`, or a configuration of \
             the module alone",
        )
    }

    /// The fault in one line, with its place.
    pub fn line(&self) -> String {
        match self.position {
            Some((line, column)) => format!("{}:{line}:{column}: {}", self.file, self.message),
            None => format!("{}: {}", self.file, self.message),
        }
    }

    fn new(file: &str, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            position: None,
            message: message.into(),
        }
    }
}

/// Reads each of the files that were given.
pub fn read_all(files: &[String]) -> impl Iterator<Item = Result<Tree, Fault>> {
    let numbered = (1..).zip(files);
    numbered.map(|(number, file)| read_numbered(file, number))
}

/// Reads a file, or standard input for `-`.
pub fn read(file: &str) -> Result<Tree, Fault> {
    read_numbered(file, 1)
}

fn read_numbered(file: &str, number: usize) -> Result<Tree, Fault> {
    let name = name(file);
    let bytes = if file == "-" {
        bytes(io::stdin().lock())
    } else {
        File::open(file).and_then(bytes)
    };
    let bytes = bytes.map_err(|error| {
        let why = match error.kind() {
            ErrorKind::IsADirectory => "it is a folder: name the files in it".to_owned(),
            _ => error.to_string(),
        };
        Fault::new(&arguments::file(name, number), why)
    })?;
    if bytes.len() > MAX_BYTES {
        let limit = MAX_BYTES >> 20;
        return Err(Fault::new(
            name,
            format!("it has more than {limit} MiB, and is not read"),
        ));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Fault::new(name, "it is not UTF-8, and so neither YAML nor JSON"))?;
    Tree::read(name.to_owned(), text.clone()).map_err(|error| Fault {
        position: Some(yaml::position(&text, error.place.start)),
        ..Fault::new(name, error.message)
    })
}

/// The name of a file in messages.
fn name(file: &str) -> &str {
    if file == "-" {
        "<standard input>"
    } else {
        file
    }
}

/// Reads at the most one byte more than a file may have.
fn bytes(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
