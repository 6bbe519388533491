//! The module's allocator: it keeps freed blocks of small sizes for the next ones of their size.
//!
//! Every request takes and gives back blocks of the same few sizes. The C library's allocator (dlmalloc) takes some 150
//! instructions to find one and as many to take it back, since it may split and join blocks; here it is ten to twenty.
//! What is larger, or more than is kept of a size, goes to the C library.
//!
//! The non-obvious rule: a block is one of its class for life, so one that is freed fits the next of its class. The class
//! follows from the size alone, which Rust names at both ends.

#![expect(unsafe_code, reason = "an allocator hands out raw memory")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    ptr,
};

/// The steps of the sizes of small blocks, and the largest. Some live long, so little of them may stay unused.
const SMALL_STEP: usize = 16;
const MAX_SMALL: usize = 512;

/// The same of large blocks, which mostly live for one request.
const LARGE_STEP: usize = 512;
const MAX_LARGE: usize = 4096;

const SMALL_CLASSES: usize = MAX_SMALL / SMALL_STEP;
const CLASSES: usize = SMALL_CLASSES + MAX_LARGE / LARGE_STEP - 1;

/// How every block is aligned. What needs more goes to the C library.
const ALIGN: usize = 8;

/// Blocks of one class that are kept, at the most: less than 1 MiB of all classes.
const MAX_KEPT: usize = 32;

#[global_allocator]
static ALLOCATOR: Recycler = Recycler([const { Class::new() }; CLASSES]);

/// The free blocks of each class.
struct Recycler([Class; CLASSES]);

/// The free blocks of one class, each of which begins with the address of the next.
struct Class {
    first: Cell<*mut u8>,
    kept: Cell<usize>,
}

impl Class {
    const fn new() -> Self {
        Self {
            first: Cell::new(ptr::null_mut()),
            kept: Cell::new(0),
        }
    }
}

// SAFETY: a module of WASI has one thread.
unsafe impl Sync for Recycler {}

// SAFETY: a block that is handed out is in no list, and is as large and as aligned as it was asked for: `class` gives both
// ends the same class for a layout, and all blocks of a class are made with `whole`. The lists lie in free blocks only.
unsafe impl GlobalAlloc for Recycler {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((at, class)) = self.class(layout) else {
            // SAFETY: the caller's promises are those of this call.
            return unsafe { System.alloc(layout) };
        };
        let block = class.first.get();
        if block.is_null() {
            // SAFETY: no class is of size 0.
            return unsafe { System.alloc(whole(at)) };
        }
        // SAFETY: a free block begins with an address, and is aligned for one.
        class.first.set(unsafe { block.cast::<*mut u8>().read() });
        class.kept.update(|kept| kept - 1);
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some((at, class)) = self.class(layout) else {
            // SAFETY: the caller's promises are those of this call.
            return unsafe { System.dealloc(block, layout) };
        };
        if class.kept.get() == MAX_KEPT {
            // SAFETY: `alloc` made the block so.
            return unsafe { System.dealloc(block, whole(at)) };
        }
        // SAFETY: nobody uses the block any more; it is aligned for an address, and no class is too small for one.
        unsafe { block.cast::<*mut u8>().write(class.first.get()) };
        class.first.set(block);
        class.kept.update(|kept| kept + 1);
    }
}

impl Recycler {
    /// Returns the class of a block. `None`: such blocks are not kept.
    #[inline]
    fn class(&self, layout: Layout) -> Option<(usize, &Class)> {
        // Rust asks for no empty block.
        let rest = layout.size().wrapping_sub(1);
        let at = match rest {
            _ if layout.align() > ALIGN => return None,
            ..MAX_SMALL => rest / SMALL_STEP,
            ..MAX_LARGE => SMALL_CLASSES - 1 + rest / LARGE_STEP,
            _ => return None,
        };
        Some((at, self.0.get(at)?))
    }
}

/// Returns how blocks of a class are made.
fn whole(class: usize) -> Layout {
    let size = match class.checked_sub(SMALL_CLASSES) {
        None => (class + 1) * SMALL_STEP,
        Some(large) => (large + 2) * LARGE_STEP,
    };
    Layout::from_size_align(size, ALIGN).unwrap_or(Layout::new::<[u64; MAX_LARGE / 8]>())
}
