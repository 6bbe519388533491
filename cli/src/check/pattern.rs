//! Regular expressions, as Envoy's RE2 and its likes read them, and texts that they match.

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::{
    ParserBuilder,
    hir::{Class, Hir, HirKind},
};

use crate::yaml::Value;

/// The steps that a regular expression costs, that each of its bytes costs, and each of its braces, which may repeat the rest.
const STEPS_OF_REGEX: [usize; 3] = [300, 20, 20_000];

/// Most texts that are made from an expression, and how long one may be.
const MOST_EXAMPLES: usize = 128;
const LONGEST_EXAMPLE: usize = 512;

/// Classes with so few letters are tried with each.
const FEW_LETTERS: u32 = 4;

/// How much of a text an expression must match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// Its beginning.
    Beginning,
    /// Any part of it.
    Anywhere,
}

/// Compiles a regular expression for whole texts, if the file of `rule` has steps left for that. `None` also if the expression
/// cannot be read.
pub fn compiled_at_a_cost(rule: Value<'_>, regex: &str) -> Option<Regex> {
    compiled_for(rule, regex, Extent::Whole)
}

/// The same for other texts than whole ones.
pub fn compiled_for(rule: Value<'_>, regex: &str, extent: Extent) -> Option<Regex> {
    let [base, byte, brace] = STEPS_OF_REGEX;
    let braces = regex.matches('{').count();
    let cost = base + byte * regex.len() + brace * braces;
    let within = match extent {
        Extent::Whole => format!("^(?:{regex})$"),
        Extent::Beginning => format!("^(?:{regex})"),
        Extent::Anywhere => regex.to_owned(),
    };
    rule.tree.spend(cost).then(|| compiled(&within)).flatten()
}

fn compiled(regex: &str) -> Option<Regex> {
    let regex = as_here(regex);
    let build = |has_unicode| {
        RegexBuilder::new(&regex)
            .size_limit(1 << 20)
            .octal(true)
            .unicode(has_unicode)
            .build()
            .ok()
    };
    // Classes are of ASCII, as in Envoy's RE2, but for those that name a class of Unicode. Paths have ASCII alone.
    build(false).or_else(|| build(true))
}

/// An expression of RE2 in the words of this engine, which knows neither quotations nor the class of any byte.
fn as_here(regex: &str) -> String {
    let mut found = String::with_capacity(regex.len());
    let mut rest = regex;
    while let Some((before, behind)) = rest.split_once('\\') {
        found.push_str(before);
        rest = if let Some(quoted) = behind.strip_prefix('Q') {
            let (quoted, rest) = quoted.split_once("\\E").unwrap_or((quoted, ""));
            found.push_str(&regex_syntax::escape(quoted));
            rest
        } else if let Some(rest) = behind.strip_prefix('C') {
            found.push_str("(?s-u:.)");
            rest
        } else {
            found.push('\\');
            let mut letters = behind.chars();
            found.extend(letters.next());
            letters.as_str()
        };
    }
    found.push_str(rest);
    found
}

/// Texts that a regular expression matches: each of its alternatives has one, and some are with what may be left out and some
/// without. None if it cannot be read, or if they would be too long.
pub fn examples(rule: Value<'_>, regex: &str) -> Vec<String> {
    let regex_here = as_here(regex);
    let parse = |has_unicode| {
        let mut parser = ParserBuilder::new();
        parser.utf8(false).octal(true).unicode(has_unicode);
        parser.build().parse(&regex_here).ok()
    };
    let Some(parsed) = parse(false).or_else(|| parse(true)) else {
        return Vec::new();
    };
    let made = of(rule, &parsed, false).into_iter();
    made.filter_map(|text| String::from_utf8(text).ok())
        .collect()
}

fn of(rule: Value<'_>, regex: &Hir, is_repeated: bool) -> Vec<Vec<u8>> {
    let mut found = match regex.kind() {
        HirKind::Empty | HirKind::Look(_) => vec![Vec::new()],
        HirKind::Literal(literal) => vec![literal.0.to_vec()],
        HirKind::Class(class) => {
            let letters = letters(class, is_repeated).into_iter();
            letters.map(|letter| vec![letter]).collect()
        }
        HirKind::Capture(capture) => of(rule, &capture.sub, is_repeated),
        HirKind::Repetition(repetition) => {
            let once = of(rule, &repetition.sub, repetition.max != Some(1));
            let times = usize::try_from(repetition.min.max(1)).unwrap_or(LONGEST_EXAMPLE);
            let none = (repetition.min == 0).then(Vec::new);
            let repeated = once.into_iter().map(|text| {
                let least = text.len().max(1);
                text.repeat(times.min(LONGEST_EXAMPLE / least + 1))
            });
            none.into_iter().chain(repeated).collect()
        }
        HirKind::Concat(parts) => parts.iter().fold(vec![Vec::new()], |before, part| {
            joined(rule, &before, &of(rule, part, is_repeated))
        }),
        HirKind::Alternation(parts) => {
            let all = parts.iter().flat_map(|part| of(rule, part, is_repeated));
            all.take(MOST_EXAMPLES).collect()
        }
    };
    found.retain(|text| text.len() <= LONGEST_EXAMPLE);
    found
}

/// Each text with each text behind it, or with too many of them each text at least once.
fn joined(rule: Value<'_>, before: &[Vec<u8>], behind: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let join = |(one, other): (&Vec<u8>, &Vec<u8>)| [one.as_slice(), other].concat();
    let count = before.len() * behind.len();
    let found: Vec<Vec<u8>> = if count <= MOST_EXAMPLES {
        let pairs = before
            .iter()
            .flat_map(|one| behind.iter().map(move |other| (one, other)));
        pairs.map(join).collect()
    } else {
        let pairs = before.iter().cycle().zip(behind.iter().cycle());
        let most = before.len().max(behind.len());
        pairs.take(most).map(join).collect()
    };
    if rule.tree.spend(found.len()) {
        found
    } else {
        Vec::new()
    }
}

/// Letters of a class: all of a few, or else one. A dot that is alone counts as the dot that it is meant for as a rule.
fn letters(class: &Class, is_repeated: bool) -> Vec<u8> {
    let ranges: Vec<(u32, u32)> = match class {
        Class::Bytes(class) => class
            .ranges()
            .iter()
            .map(|range| (range.start().into(), range.end().into()))
            .collect(),
        Class::Unicode(class) => class
            .ranges()
            .iter()
            .map(|range| (range.start().into(), range.end().into()))
            .collect(),
    };
    let has = |letter: u8| {
        let mut own = ranges.iter();
        own.any(|(start, end)| (*start..=*end).contains(&u32::from(letter)))
    };
    let count: u32 = ranges.iter().map(|(start, end)| end - start + 1).sum();
    if count <= FEW_LETTERS {
        let all = ranges.iter().flat_map(|(start, end)| *start..=*end);
        return all.filter_map(|letter| u8::try_from(letter).ok()).collect();
    }
    let is_any = has(b'/') && has(b'.') && has(b'a');
    let mut usual = b"a0A!-".iter().copied().chain(0x21..0x7f);
    let one = if is_any && !is_repeated {
        Some(b'.')
    } else {
        usual.find(|letter| has(*letter))
    };
    one.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::Tree;

    #[test]
    fn each_alternative_has_an_example() {
        let tree = Tree::read("test".to_owned(), "a".to_owned()).unwrap();
        for (regex, expected) in [
            ("^/_matrix/client/$", &["/_matrix/client/"][..]),
            (r"/\.well-known/matrix", &["/.well-known/matrix"]),
            ("/.well-known/matrix", &["/.well-known/matrix"]),
            ("/a/(b|cd)/e", &["/a/b/e", "/a/cd/e"]),
            ("/a/[^/]+", &["/a/a"]),
            ("/ab?", &["/a", "/ab"]),
            ("/a(/.*)?", &["/a", "/a/", "/a/a"]),
            ("/a{3}", &["/aaa"]),
            (r"/\d+", &["/0"]),
            (r"/\p{Lu}\pN+", &["/A0"]),
            (r"/\Qa.\E/b", &["/a./b"]),
            (r"/\141", &["/a"]),
            ("/[rv]", &["/r", "/v"]),
            ("(r0|v3)/(a|bc)", &["r0/a", "r0/bc", "v3/a", "v3/bc"]),
            ("", &[""]),
            ("(", &[]),
            ("a{1000}", &[]),
        ] {
            assert_eq!(examples(tree.value(0), regex), expected, "{regex}");
        }
    }

    #[test]
    fn there_are_few_examples_and_short_ones() {
        let tree = Tree::read("test".to_owned(), "a".to_owned()).unwrap();
        for regex in [
            "(a|bc)".repeat(100),
            "(a?b?c?)+".repeat(100),
            "((a{9}){9}){9}".to_owned(),
            vec!["a/b"; 1000].join("|"),
        ] {
            let found = examples(tree.value(0), &regex);
            assert!(found.len() <= MOST_EXAMPLES, "{regex}");
            assert!(
                found.iter().all(|it| it.len() <= LONGEST_EXAMPLE),
                "{regex}"
            );
        }
    }
}
