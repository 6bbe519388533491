//! Reading files, of any size and content, with bounded work.

use std::{
    fs::File,
    io::{self, ErrorKind, Read},
};

use crate::{
    arguments,
    yaml::{self, MAX_BYTES, Tree},
};

/// The name by which standard input is given.
pub const INPUT: &str = "-";

/// Why a file could not be read.
pub struct Fault {
    /// The file, as the user calls it.
    pub file: String,
    /// Line and column, if the fault has a place.
    pub position: Option<(usize, usize)>,
    /// Why, in one line.
    pub message: String,
    /// Whether something was not looked at.
    pub is_unread: bool,
}

impl Fault {
    /// A fault of a file as a whole.
    pub fn new(file: &str, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            position: None,
            message: message.into(),
            is_unread: true,
        }
    }

    /// No file uses the module. That is more likely a mistake than intended. It is told at the first file.
    pub fn without_use(files: &[String]) -> Self {
        let first = files.first().map(|file| name(file)).unwrap_or_default();
        let others = match files.len() {
            0 | 1 => String::new(),
            2 => ", or in the other file".to_owned(),
            number => format!(", or in the other {} files", number - 1),
        };
        let message = format!(
            "there is no use of the module in it{others}: give a file that has the filter `envoy.filters.http.wasm`, or a \
             configuration of the module alone"
        );
        Self {
            is_unread: false,
            ..Self::new(first, message)
        }
    }

    /// The fault in one line, with its place.
    pub fn line(&self) -> String {
        match self.position {
            Some((line, column)) => format!("{}:{line}:{column}: {}", self.file, self.message),
            None => format!("{}: {}", self.file, self.message),
        }
    }
}

/// Reads each of the files that were given.
pub fn read_all(files: &[String]) -> impl Iterator<Item = Result<Tree, Fault>> {
    let mut has_input = false;
    let numbered = (1..).zip(files);
    numbered.map(move |(number, file)| {
        if file == INPUT && std::mem::replace(&mut has_input, true) {
            let message =
                "it can be read once, and is named twice: write the second part into a file";
            return Err(Fault::new(name(file), message));
        }
        read_numbered(file, number)
    })
}

/// Reads a file, or standard input for `-`.
pub fn read(file: &str) -> Result<Tree, Fault> {
    read_numbered(file, 1)
}

fn read_numbered(file: &str, number: usize) -> Result<Tree, Fault> {
    let name = name(file);
    let bytes = if file == INPUT {
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
            format!("it has more than {limit} MiB, and is not read: give a part of it"),
        ));
    }
    let text = String::from_utf8(bytes).map_err(|_| {
        let message = "it is not UTF-8, in which Envoy wants it: write it anew, as by `iconv -t UTF-8 -f ENCODING`";
        Fault::new(name, message)
    })?;
    Tree::read(name.to_owned(), text.clone()).map_err(|error| Fault {
        position: Some(yaml::position(&text, error.place.start)),
        ..Fault::new(name, error.message)
    })
}

/// The name of a file in messages.
pub fn name(file: &str) -> &str {
    if file == INPUT {
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
