//! What counts as a form, against the parser of the installed Synapse's HTTP server: media types made of pieces that it
//! reads in its own way, among them RFC 2047 encoded words, comments, quotes and white space.
//!
//! A form that is not seen would let its token act unseen. What is no form and is taken for one would hide a token in the
//! query.

use std::{
    collections::BTreeSet,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use fastrand::Rng;
use matrix_edge_auth::matrix::credential::{FormPost, form_post};

use crate::support::synapse::process::python;

const CONTENT_TYPES: usize = 20_000;

/// What a media type begins as, before pieces are put in.
const WHOLE: [&[&[u8]]; 3] = [
    &[b"application", b"/", b"x-www-form-urlencoded"],
    &[b"multipart", b"/", b"form-data", b";", b" ", b"boundary=x"],
    &[b"application", b"/", b"json", b";", b"a=b"],
];

#[rustfmt::skip]
const PIECES: [&[u8]; 38] = [
    b"application", b"/", b"x-www-form-urlencoded", b"multipart", b"form-data", b"json", b"charset", b"a=b",
    b" ", b"\t", b"\xa0", b"\x85", b"\xe9", b"\x1c", b"(c)", b"(", b")", b"\"", b"\\", b";", b",", b"*", b"=", b"<", b">",
    b"=?", b"?=", b"?q?", b"*0*=utf-8''%20",
    b"=?utf-8?q?x?=", b"=?utf-8?q?application?=", b"=?utf-8?q?=3B?=", b"=?utf-8?b?Ow==?=", b"=?utf-8?q??=",
    b"=?us-ascii?q?/?=", b"=?utf-8?q?application/x-www-form-urlencoded?=", b"=?utf-8?q?x-www-form-urlencoded?=",
    b"=?utf-8?q?multipart/form-data;_boundary=x?=",
];

#[test]
fn a_body_is_taken_for_a_form_where_twisted_takes_it_for_one() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let content_types: Vec<_> = (0..CONTENT_TYPES).map(|_| content_type(&mut rng)).collect();
    let mut seen = BTreeSet::new();
    for (content_type, read) in content_types.iter().zip(as_twisted_reads(&content_types)) {
        let form_post = form_post(b"POST", Some(content_type));
        if read == "error" {
            // Nobody is served, whatever it is taken for.
            continue;
        }
        let is_right = match form_post {
            FormPost::Yes => read == "form",
            FormPost::Maybe => true,
            FormPost::No => read == "no",
        };
        assert!(
            is_right,
            "{read}, not {form_post:?}: {}",
            content_type.escape_ascii()
        );
        seen.insert((format!("{form_post:?}"), read));
    }
    // Nothing of it went unasked.
    let expected = [
        ("Maybe", "form"),
        ("Maybe", "multipart"),
        ("Maybe", "no"),
        ("No", "no"),
        ("Yes", "form"),
    ];
    let expected = expected.map(|(is, read)| (is.to_owned(), read.to_owned()));
    assert_eq!(seen, BTreeSet::from(expected));
}

fn content_type(rng: &mut Rng) -> Vec<u8> {
    let mut pieces = WHOLE[rng.usize(..WHOLE.len())].to_vec();
    for _ in 0..rng.usize(1..=5) {
        let piece = PIECES[rng.usize(..PIECES.len())];
        pieces.insert(rng.usize(..=pieces.len()), piece);
    }
    // Both proxies and servers take the white space around a value away.
    pieces.concat().trim_ascii().to_vec()
}

fn as_twisted_reads(content_types: &[Vec<u8>]) -> Vec<String> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/synapse/content_types.py");
    let mut child = Command::new(python())
        .arg(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let lines: String = content_types
        .iter()
        .map(|bytes| hex(bytes) + "\n")
        .collect();
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("no panic").expect("it reads all");
    assert!(output.status.success());
    let read = String::from_utf8(output.stdout).expect("text");
    let read: Vec<_> = read.lines().map(str::to_owned).collect();
    assert_eq!(read.len(), content_types.len());
    read
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
