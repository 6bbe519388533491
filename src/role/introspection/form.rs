//! The form of an introspection request, RFC 7662 section 2.1, as the homeserver sends it: exactly `token` and
//! `token_type_hint=access_token`, in any order.
//!
//! It is read in pieces. Of a caller that MAS has not answered yet, the token itself is not kept: whether the form is
//! such a one is all that counts.

use alloc::vec::Vec;
use core::fmt;

use crate::{
    mas::introspection::HINT,
    resolver::MAX_TOKEN_BYTES,
    text::form::parser::{FormParser, Part, ShortText},
    token::AccessToken,
};

/// The name of the pair that holds the token.
const TOKEN: &[u8] = b"token";

/// A form that is read as it comes. `Debug` shows nothing of it.
#[derive(Default)]
pub struct QuestionForm {
    parser: FormParser,
    name: ShortText,
    hint: ShortText,
    /// What has come of the token, if it is kept.
    token: Vec<u8>,
    keeps_token: bool,
    token_bytes: usize,
    has_token: bool,
    has_hint: bool,
    /// The form is another one.
    is_other: bool,
}

impl fmt::Debug for QuestionForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuestionForm(..)")
    }
}

impl QuestionForm {
    /// A form whose token is wanted.
    pub fn of_question() -> Self {
        Self {
            keeps_token: true,
            ..Self::default()
        }
    }

    /// Reads the next piece. `false`: the form is another one, whatever comes.
    pub fn read(&mut self, piece: &[u8]) -> bool {
        let mut parser = core::mem::take(&mut self.parser);
        parser.read(piece, |part| self.take(part));
        self.parser = parser;
        !self.is_other
    }

    /// Notes that the form has ended. Returns whether it is one that the homeserver sends.
    pub fn finish(&mut self) -> bool {
        let parser = core::mem::take(&mut self.parser);
        parser.finish(|part| self.take(part));
        !self.is_other && self.has_token && self.has_hint
    }

    /// Returns the token of a form that has ended, if it is one that the homeserver sends.
    pub fn into_token(mut self) -> Option<AccessToken<'static>> {
        if !self.finish() {
            return None;
        }
        AccessToken::new(self.token)
    }

    fn take(&mut self, part: Part<'_>) {
        if self.is_other {
            return;
        }
        let is_hint = |name: &ShortText| name.is(HINT.0.as_bytes());
        match part {
            Part::Name(piece) => self.name.push(piece),
            Part::Value(piece) if self.name.is(TOKEN) => self.take_token(piece),
            Part::Value(piece) if is_hint(&self.name) => self.hint.push(piece),
            Part::End if self.name.is(TOKEN) && !self.has_token && self.token_bytes > 0 => {
                self.has_token = true;
            }
            Part::End if is_hint(&self.name) && !self.has_hint => {
                self.has_hint = true;
                self.is_other = !self.hint.is(HINT.1.as_bytes());
            }
            Part::Value(_) | Part::End => self.is_other = true,
        }
        if let Part::End = part {
            self.name = ShortText::default();
        }
    }

    /// Takes in a piece of the token. MAS fails on some control bytes, so a token with one is none. One that MAS would not be asked
    /// about is none either.
    fn take_token(&mut self, piece: &[u8]) {
        self.token_bytes = self.token_bytes.saturating_add(piece.len());
        let is_plain = piece
            .iter()
            .all(|byte| byte.is_ascii() && !byte.is_ascii_control());
        if self.has_token || !is_plain || self.token_bytes > MAX_TOKEN_BYTES {
            self.is_other = true;
        } else if self.keeps_token {
            match self.token.try_reserve(piece.len()) {
                Ok(()) => self.token.extend_from_slice(piece),
                Err(_) => self.is_other = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The token of a form that comes in pieces of this length. It is one that the homeserver sends, whether its token
    /// is kept or not.
    fn token(form: &[u8], piece: usize) -> Option<AccessToken<'static>> {
        let mut kept = QuestionForm::of_question();
        let mut seen = QuestionForm::default();
        for piece in form.chunks(piece) {
            assert_eq!(kept.read(piece), seen.read(piece));
        }
        let token = kept.into_token();
        assert_eq!(seen.finish(), token.is_some());
        assert!(seen.token.is_empty());
        token
    }

    #[test]
    fn the_form_is_exactly_token_and_hint() {
        for form in [
            "token=a%26b+c&token_type_hint=access_token",
            "token_type_hint=access%5ftoken&token=a%26b+c",
        ] {
            for piece in 1..=form.len() {
                let token = token(form.as_bytes(), piece);
                let text = token.as_ref().map(AccessToken::as_str);
                assert_eq!(text, Some("a&b c"), "{form}");
            }
        }
        for form in [
            "",
            "token=a",
            "token=a&token_type_hint=refresh_token",
            "token=a&token_type_hint=",
            "token=&token_type_hint=access_token",
            "token=a&token=a&token_type_hint=access_token",
            "token=a&token=&token_type_hint=access_token",
            "token=&token=a&token_type_hint=access_token",
            "token=a&token_type_hint=access_token&token_type_hint=access_token",
            "token=a&token_type_hint=access_token&token_type_hint=",
            "token=a&token_type_hint=&token_type_hint=access_token",
            "token=a&token_type_hint=access_token&client_id=x",
            "token=%00&token_type_hint=access_token",
            "token=%C3%A9&token_type_hint=access_token",
            "token=%ff&token_type_hint=access_token",
            "Token=a&token_type_hint=access_token",
        ] {
            for piece in 1..=form.len().max(1) {
                assert_eq!(token(form.as_bytes(), piece), None, "{form}");
            }
        }
    }

    #[test]
    fn a_token_of_any_length_takes_no_more_than_its_bound() {
        for (length, is_token) in [(MAX_TOKEN_BYTES, true), (MAX_TOKEN_BYTES + 1, false)] {
            let form = format!("token_type_hint=access_token&token={}", "x".repeat(length));
            for piece in [1, 1_000, form.len()] {
                assert_eq!(
                    token(form.as_bytes(), piece).is_some(),
                    is_token,
                    "{length}"
                );
            }
        }
    }

    #[test]
    fn another_form_is_known_as_soon_as_it_differs() {
        for form in [
            "client_id=x",
            "token=a&token=b",
            "token_type_hint=refresh_token&",
            "token=%07",
        ] {
            assert!(!QuestionForm::default().read(form.as_bytes()), "{form}");
        }
        assert!(QuestionForm::default().read(b"token=a&token_type_hint=acc"));
    }
}
