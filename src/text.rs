//! How bytes are looked through: what every reader of paths, heads, forms and JSON has in common.
//!
//! | file | what |
//! |---|---|
//! | `scan` | bytes are looked for and compared several at a time |
//! | `percent` | escapes of paths and forms are decoded |
//! | `plain_bytes` | what an encoding leaves as it is |
//! | `form` | `application/x-www-form-urlencoded` |
//! | `work` | how often a byte is looked at, for tests |

pub mod form;
pub(crate) mod percent;
pub mod plain_bytes;
pub(crate) mod scan;
pub(crate) mod work;
