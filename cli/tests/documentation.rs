//! The pages of the manual are true: every command in docs/cli.md is run, and prints what stands there; links lead somewhere; and
//! of every other block it is known which test runs it.
//!
//! `UPDATE_DOCUMENTATION=1 cargo test -p matrix-edge-auth-cli --test documentation` writes the outputs anew.

mod support;

#[path = "../../tests/support/folder_pages.rs"]
#[allow(
    dead_code,
    reason = "shared by several test programs, each of which uses a part"
)]
mod folder_pages;

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use self::support::repository;

const PAGE: &str = "docs/cli.md";
const BLOCK: &str = "```console\n$ ";

/// Runs a command of the page in the repository's root.
fn output(command: &str) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_matrix-edge-auth"));
    let folder = program.parent().expect("it is in a folder");
    let others = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(
        [folder.to_owned()]
            .into_iter()
            .chain(env::split_paths(&others)),
    );
    let output = Command::new("bash")
        .args(["-c", command])
        .current_dir(repository())
        .env("PATH", path.expect("names of folders"))
        .output()
        .expect("bash starts");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{command}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The command as it is run; `None` if what it needs is not on this machine. The layer `manifests` knows a kubectl that is
/// recent enough, and in continuous integration it has one.
fn runnable(command: &str) -> Option<String> {
    match command.strip_prefix("kubectl ") {
        None => Some(command.to_owned()),
        Some(rest) => {
            let kubectl = env::var("KUBECTL").ok();
            let is_needed = cfg!(feature = "test-manifests")
                && env::var_os("CI").is_some_and(|value| value == "true");
            assert!(kubectl.is_some() || !is_needed, "KUBECTL names none");
            kubectl.map(|kubectl| format!("'{kubectl}' {rest}"))
        }
    }
}

/// The page with the outputs of its commands.
fn rewritten(page: &str) -> String {
    let mut parts = page.split(BLOCK);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (command, rest) = part.split_once('\n').expect("a command ends its line");
        let (written, rest) = match rest.strip_prefix("```\n") {
            Some(rest) => ("", rest),
            None => rest.split_once("\n```\n").expect("a block ends"),
        };
        let output = match runnable(command) {
            Some(command) => output(&command),
            None => format!("{written}\n"),
        };
        text += &format!("{BLOCK}{command}\n{}\n```\n{rest}", output.trim_end());
    }
    text
}

#[test]
fn every_command_prints_what_the_page_says() {
    fs::create_dir_all(repository().join("target")).expect("target/");
    let path: PathBuf = repository().join(PAGE);
    let page = fs::read_to_string(&path).expect(PAGE);
    let expected = rewritten(&page);
    if env::var_os("UPDATE_DOCUMENTATION").is_some() {
        fs::write(&path, &expected).expect(PAGE);
    }
    let page = fs::read_to_string(&path).expect(PAGE);
    assert!(
        page.matches(BLOCK).count() >= 8,
        "the page has its commands"
    );
    for (written, expected) in page.lines().zip(expected.lines()) {
        assert_eq!(written, expected);
    }
    assert_eq!(page, expected);
}

/// How the program is built. Continuous integration runs the first of them, which takes a minute.
#[test]
fn the_program_can_be_installed_as_the_page_says() {
    let page = fs::read_to_string(repository().join(PAGE)).expect(PAGE);
    let (_, block) = page.split_once("```sh\n").expect("how to build it");
    let lines = block.lines().take_while(|line| *line != "```");
    let commands: Vec<&str> = lines
        .filter_map(|line| line.split('#').next())
        .map(str::trim)
        .collect();
    let [make, install] = commands[..] else {
        panic!("two commands: {commands:?}");
    };
    let ci = fs::read_to_string(repository().join(".ci/run")).expect("what is run");
    assert!(
        ci.contains(&format!("\npart {make}\n")),
        "nothing runs {make}"
    );
    let folder = tempfile::tempdir().expect("a folder");
    // Of what the tests have built already.
    let built = Path::new(env!("CARGO_BIN_EXE_matrix-edge-auth"));
    let target = built.ancestors().nth(2).expect("target/debug/");
    let command = format!(
        "{install} --debug --offline --locked --root '{}' --target-dir '{}'",
        folder.path().display(),
        target.display()
    );
    let installed = Command::new("bash")
        .args(["-c", &command])
        .current_dir(repository())
        .output()
        .expect("bash starts");
    let said = String::from_utf8_lossy(&installed.stderr);
    assert!(installed.status.success(), "{command}: {said}");
    let version = Command::new(folder.path().join("bin/matrix-edge-auth"))
        .arg("--version")
        .output()
        .expect("the program starts");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    assert!(version.starts_with("matrix-edge-auth "), "{version}");
}

/// The other commands of that page are run beside an Envoy, by `tests/envoy/rollout_guide.rs`.
#[test]
fn the_check_of_the_rollout_guide_prints_what_it_says() {
    let page = fs::read_to_string(repository().join("docs/rollout.md")).expect("the page");
    let mut lines = page.lines();
    let commands: Vec<(&str, &str)> = std::iter::from_fn(|| {
        let command = lines.find_map(|line| line.strip_prefix("$ matrix-edge-auth "))?;
        Some((command, lines.next().unwrap_or_default()))
    })
    .collect();
    assert_eq!(commands.len(), 2, "of the first step, and of an upgrade");
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["envoy.yaml", "mas-secret.yaml"] {
        let text = fs::read_to_string(repository().join("envoy/production").join(name));
        // The reader has the guide's names and secret replaced before.
        let text = text.expect("a file").replace("change-me", "s3cret");
        let text = text.replace("example.org", "matrix.test");
        fs::write(folder.path().join(name), text).expect("a file of our own");
    }
    for (command, wanted) in commands {
        let command = command.replace("/etc/envoy", &folder.path().display().to_string());
        assert_eq!(
            output(&format!("matrix-edge-auth {command}")).trim_end(),
            wanted
        );
    }
}

/// The manual, and which test runs the blocks of each page: its language, and the test's file.
const TESTED: &[(&str, &str, &str)] = &[
    ("README.md", "yaml", "tests/envoy/readme.rs"),
    ("README.md", "console", "tests/envoy/readme.rs"),
    ("docs/cli.md", "console", "cli/tests/documentation.rs"),
    ("docs/cli.md", "sh", "cli/tests/documentation.rs"),
    ("docs/configuration.md", "yaml", "tests/schema/documents.rs"),
    ("docs/rollout.md", "yaml", "tests/envoy/rollout_guide.rs"),
    ("docs/rollout.md", "console", "tests/envoy/rollout_guide.rs"),
    ("docs/rollout.md", "sh", "tests/envoy/rollout_guide.rs"),
    ("docs/operations.md", "sh", "tests/ops/rules.rs"),
];

/// README.md, and the pages below docs/ and envoy/.
fn pages() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = ["docs", "envoy"].map(|name| repository().join(name)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let names = ["README.md", "SECURITY.md", "CHANGELOG.md"];
    found.extend(names.map(|name| repository().join(name)));
    found
}

/// The page without its fenced blocks.
fn prose(page: &str) -> String {
    let parts = page.split("\n```").enumerate();
    parts
        .filter(|(at, _)| at % 2 == 0)
        .map(|(_, part)| part)
        .collect()
}

/// The anchors of a page's headings, as GitHub, GitLab and Gitea make them.
fn anchors(page: &str) -> Vec<String> {
    let prose = prose(page);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let words = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = words
                .chars()
                .filter(|c| c.is_alphanumeric() || "_- ".contains(*c));
            kept.collect::<String>().replace(' ', "-")
        })
        .collect()
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut links = 0;
    for path in pages() {
        let page = fs::read_to_string(&path).expect("a page");
        for link in prose(&page).split("](").skip(1) {
            let link = link.split(')').next().expect("a first part");
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => path.clone(),
                file => path.parent().expect("a folder").join(file),
            };
            let shown = path.display();
            assert!(target.exists(), "{shown}: {link}");
            if !anchor.is_empty() {
                let page = fs::read_to_string(&target).expect("a page");
                assert!(
                    anchors(&page).iter().any(|known| known == anchor),
                    "{shown}: {link}"
                );
            }
            links += 1;
        }
    }
    assert!(links > 100, "{links} links");
}

/// The tables of docs/operations.md that say what a value of a label means, and what to do about it. `src/metrics.rs` sees that
/// each value has its row.
#[test]
fn every_cell_about_reasons_outcomes_and_sources_is_filled() {
    let page = fs::read_to_string(repository().join("docs/operations.md")).expect("a page");
    for (heading, columns, least) in [("Sources", 4, 8), ("Reasons", 5, 16), ("Outcomes", 4, 11)] {
        let (_, section) = page
            .split_once(&format!("\n## {heading}\n"))
            .unwrap_or_else(|| panic!("no section {heading}"));
        let section = section.split("\n## ").next().unwrap_or_default();
        let mut rows = 0;
        for row in section.lines().filter(|line| line.starts_with("| `")) {
            let inner = row.trim_start_matches("| ").trim_end_matches(" |");
            let cells: Vec<&str> = inner.split(" | ").map(str::trim).collect();
            assert_eq!(cells.len(), columns, "{heading}: {row}");
            let is_filled = cells
                .iter()
                .all(|cell| cell.chars().any(char::is_alphanumeric));
            assert!(is_filled, "{heading}: {row}");
            rows += 1;
        }
        assert!(rows >= least, "{heading}: {rows} rows");
    }
}

/// What `make bench` draws stands beside the table of the same figures.
#[test]
fn every_plot_is_shown_beside_its_table() {
    let read = |page: &str| fs::read_to_string(repository().join(page)).expect("a page");
    let page = read("docs/performance.md");
    let plots = fs::read_dir(repository().join("docs/plots")).expect("a folder");
    let mut shown = 0;
    for plot in plots {
        let name = plot.expect("a file").file_name();
        let name = name.to_str().expect("UTF-8");
        if read("docs/internals/benchmarks.md").contains(&format!("](../plots/{name})\n")) {
            continue;
        }
        let (_, rest) = page
            .split_once(&format!("](plots/{name})\n"))
            .unwrap_or_else(|| panic!("docs/performance.md does not show {name}"));
        // The summary at the top of the page has no heading of its own.
        let section = rest.split("\n### ").next().unwrap_or_default();
        let is_summary = !page
            .split(name)
            .next()
            .unwrap_or_default()
            .contains("\n## ");
        assert!(
            is_summary || section.contains("\n|--") || section.contains("\n|---"),
            "{name}"
        );
        shown += 1;
    }
    assert_eq!(shown, page.matches("](plots/").count());
}

/// Figures stand once more in the table at the top of the page. Each is in the section that its row names.
#[test]
fn the_summary_of_the_performance_page_is_of_its_tables() {
    let page = fs::read_to_string(repository().join("docs/performance.md")).expect("a page");
    let (_, summary) = page.split_once("\n| in short |").expect("a summary");
    let summary = summary.split("\n\n").next().unwrap_or_default();
    let sections: Vec<&str> = page.split("\n### ").skip(1).collect();
    let mut seen = 0;
    for row in summary.lines().skip(2) {
        let (row, link) = row.split_once("](#").expect("a link to a section");
        let link = link.split(')').next().unwrap_or_default();
        let section = sections.iter().find(|section| {
            let heading = section.lines().next().unwrap_or_default();
            anchors(&format!("### {heading}")) == [link]
        });
        let section = section.unwrap_or_else(|| panic!("no section {link}"));
        let known: BTreeSet<&str> = section.split_whitespace().collect();
        let cells = row.split('|').skip(2).take(2);
        let words = cells.flat_map(|cell| cell.split([' ', ',']));
        for figure in words.filter(|word| word.starts_with(|c: char| c.is_ascii_digit())) {
            assert!(known.contains(figure), "{link}: {figure}");
            seen += 1;
        }
    }
    assert!(seen >= 10, "{seen} figures");
}

#[test]
fn the_readme_can_be_read_in_one_sitting() {
    let readme = fs::read_to_string(repository().join("README.md")).expect("README.md");
    assert!(readme.lines().count() <= 150);
}

/// The pages that say with which versions the module is tested say those that are installed for the tests.
#[test]
fn the_versions_on_the_pages_are_those_of_the_tests() {
    let read = |name: &str| fs::read_to_string(repository().join(name)).expect("a file");
    let between = |text: &str, before: &str, after: char| -> String {
        let (_, rest) = text.split_once(before).expect("it is said there");
        rest.split(after).next().unwrap_or_default().to_owned()
    };
    let envoy = read("scripts/lib/envoy.sh");
    let newest = between(&envoy, "\nenvoy_newest=", '\n');
    let older = between(&envoy, "ENVOY_VERSIONS:-", '$');
    let synapse = between(&read("scripts/setup"), "\nsynapse_version=", '\n');
    let versions = older.split_whitespace().chain([&*newest, &*synapse]);
    let versions: Vec<&str> = versions.collect();
    assert_eq!(versions.len(), 5, "{versions:?}");
    for page in ["README.md", "docs/rollout.md"] {
        let text = read(page);
        for version in &versions {
            assert!(text.contains(version), "{page}: {version}");
        }
    }
}

/// What one screen shows, and so the most that a page about a folder may have: lines, and columns of each, in the wider of the two
/// widths of a terminal. A row of a table cannot be wrapped.
const SCREEN: usize = 40;
const COLUMNS: usize = 132;

#[test]
fn each_folder_has_a_page_of_one_screen() {
    let entries = fs::read_dir(repository().join("envoy")).expect("envoy/");
    let folders: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir())
        .collect();
    assert!(folders.len() >= 9, "{folders:?}");
    let overview = fs::read_to_string(repository().join("docs/deploy.md")).expect("the overview");
    for folder in folders {
        let page = folder.join("README.md");
        let name = page.strip_prefix(repository()).expect("it is below");
        let name = name.display();
        let text = fs::read_to_string(&page).unwrap_or_else(|_| panic!("there is no {name}"));
        assert!(text.lines().count() <= SCREEN, "{name}");
        for (at, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            assert!(columns <= COLUMNS, "{name}:{}: {columns}", at + 1);
        }
        assert!(overview.contains(&format!("](../{name})")), "{name}");
    }
}

/// A table cannot be wrapped, a block is as it is, and so is a command on a line of its own, or a single long link.
#[test]
fn no_line_of_prose_is_wider_than_the_screen() {
    let can_be_wrapped = |line: &str| {
        let is_other = line.starts_with(['|', '#']) || line.starts_with("    ");
        !is_other && line.chars().take(COLUMNS).any(|c| c == ' ')
    };
    let mut wide = Vec::new();
    let mut lines = 0;
    for path in pages() {
        let page = fs::read_to_string(&path).expect("a page");
        let name = path.strip_prefix(repository()).expect("it is below");
        let mut is_block = false;
        for (at, line) in page.lines().enumerate() {
            is_block ^= line.starts_with("```");
            lines += 1;
            if !is_block && line.chars().count() > COLUMNS && can_be_wrapped(line) {
                wide.push(format!("{}:{}", name.display(), at + 1));
            }
        }
    }
    assert!(wide.is_empty(), "{wide:#?}");
    assert!(lines > 4000, "{lines} lines");
}

/// The files of a folder and of those below it, by their paths in the repository.
fn files_below(folder: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(repository().join(folder)).expect("a folder") {
        let entry = entry.expect("an entry");
        let path = format!("{folder}/{}", entry.file_name().display());
        if entry.path().is_dir() {
            found.extend(files_below(&path));
        } else {
            found.insert(path);
        }
    }
    found
}

/// `shipped_files.tsv` says which test reads each file.
#[test]
fn every_file_of_the_folders_is_run_or_checked() {
    let read = |path: &str| {
        fs::read_to_string(repository().join(path)).unwrap_or_else(|_| panic!("there is no {path}"))
    };
    let table = read("cli/tests/shipped_files.tsv");
    let rows: Vec<[&str; 3]> = table
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            columns.try_into().expect("three columns")
        })
        .collect();
    let listed: BTreeSet<String> = rows.iter().map(|[file, ..]| (*file).to_owned()).collect();
    assert_eq!(listed.len(), rows.len(), "a file is listed twice");
    let files = files_below("envoy");
    let unread: Vec<&String> = files.difference(&listed).collect();
    assert!(unread.is_empty(), "nothing runs or checks {unread:?}");
    let gone: Vec<&String> = listed.difference(&files).collect();
    assert!(gone.is_empty(), "there is no {gone:?}");
    for [file, by, words] in &rows {
        let text = read(by);
        let mut lines = text.lines().map(str::trim_start);
        let names = lines.any(|line| !line.starts_with(['#', '/']) && line.contains(words));
        assert!(names, "{by} does not name {file} as {words}");
        // A file that another brings along is read by who reads that.
        let mut reader = *by;
        for _ in 0..rows.len() {
            match rows.iter().find(|[file, ..]| *file == reader) {
                Some([_, next, _]) => reader = next,
                None => break,
            }
        }
        let is_test = reader.starts_with("tests/") || reader.starts_with("cli/tests/");
        assert!(is_test, "{file} is read by {reader}, which is no test");
    }
}

/// A command that is new or changed is in no list, and so nothing runs it.
#[test]
fn every_command_of_the_folders_is_run_by_a_test() {
    let mut expected: Vec<(String, &str)> = folder_pages::COMMANDS
        .iter()
        .map(|command| (command.page.to_owned(), command.text))
        .collect();
    for name in folder_pages::pages(&repository()) {
        let page = fs::read_to_string(repository().join(&name)).expect("a page");
        let lines = page.lines().count();
        assert!(lines <= SCREEN, "{name} has {lines} lines");
        for command in folder_pages::commands(&page) {
            let at = expected
                .iter()
                .position(|(page, text)| *page == name && *text == command);
            let at = at.unwrap_or_else(|| panic!("{name}: nothing runs\n{command}"));
            expected.remove(at);
        }
    }
    assert!(expected.is_empty(), "these are on no page: {expected:#?}");
    for command in folder_pages::COMMANDS {
        if let folder_pages::Runner::Elsewhere(path, reason) = command.runner {
            let text = fs::read_to_string(repository().join(path)).expect("the file that runs it");
            assert!(!text.is_empty() && !reason.is_empty(), "{}", command.text);
        }
    }
}

/// A block without a language is a picture. A block of any other kind is run by a test that names its page.
#[test]
fn every_block_of_the_manual_is_run_by_a_test() {
    for path in pages() {
        let name = path.strip_prefix(repository()).expect("it is below");
        let name = name.display().to_string();
        if name.starts_with("envoy") {
            continue;
        }
        let page = fs::read_to_string(&path).expect("a page");
        let fences = page.lines().filter_map(|line| line.strip_prefix("```"));
        for language in fences.step_by(2).filter(|language| !language.is_empty()) {
            let test = TESTED
                .iter()
                .find(|(page, kind, _)| (*page, *kind) == (&*name, language));
            let (.., test) = test.unwrap_or_else(|| panic!("{name}: nothing runs {language}"));
            let test = fs::read_to_string(repository().join(test)).expect("the test");
            let short = name.trim_start_matches("docs/");
            assert!(
                test.contains(short) || language == "sh",
                "{name}: {language}"
            );
        }
    }
}
