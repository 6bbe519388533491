//! The path of a request, with what is known of it from the one look that it was read with.

/// A path without its query.
#[derive(Clone, Copy)]
pub struct Path<'p> {
    /// The whole.
    pub text: &'p [u8],
    /// So many bytes of it at the beginning have no `%` among them, and no two dots one after the other.
    pub plain_length: usize,
}

impl<'p> From<&'p [u8]> for Path<'p> {
    fn from(text: &'p [u8]) -> Self {
        Self {
            text,
            plain_length: 0,
        }
    }
}
