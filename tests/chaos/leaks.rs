//! Looks for what nobody may read in Envoy's log and metrics: every token that was sent, and every secret.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

/// By how many bytes at its beginning a token or a secret is looked up. None is shorter.
const START: usize = 8;

/// What nobody may read.
#[derive(Default)]
pub struct Hidden(Mutex<HashSet<String>>);

impl Hidden {
    /// Takes a token or a secret.
    pub fn hide(&self, text: &str) {
        assert!(text.len() >= START, "{text} may be anywhere by chance");
        let mut hidden = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !hidden.contains(text) {
            hidden.insert(text.to_owned());
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        let hidden = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hidden.len()
    }

    /// The lines that have one.
    pub fn lines<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let hidden = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut by_start: HashMap<&[u8], Vec<&[u8]>> = HashMap::new();
        for one in hidden.iter().map(String::as_bytes) {
            by_start.entry(&one[..START]).or_default().push(one);
        }
        let has_one = |line: &&str| {
            let line = line.as_bytes();
            line.windows(START).enumerate().any(|(at, start)| {
                let ones = by_start.get(start).map_or(&[][..], |ones| ones);
                ones.iter().any(|one| line[at..].starts_with(one))
            })
        };
        text.lines().filter(has_one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_wherever_it_is_and_nothing_else_is() {
        let hidden = Hidden::default();
        for one in ["mat_abcdefgh_1", "mat_abcdefgh_2", "a-secret"] {
            hidden.hide(one);
        }
        hidden.hide("a-secret");
        assert_eq!(hidden.count(), 3);
        let text = "mat_abcdefgh_1 at the start\n\
            in the e\u{301} middle?access_token=mat_abcdefgh_2&x\n\
            at the end of a word: xa-secret\n\
            mat_abcdefgh_3, mat_abcdefgh_ and a-secre are none\n\
            \n\
            short";
        let expected: Vec<&str> = text.lines().take(3).collect();
        assert_eq!(hidden.lines(text), expected);
    }
}
