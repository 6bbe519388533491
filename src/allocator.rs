//! The module's allocator: it keeps freed blocks of small sizes for the next ones of their size.
//!
//! Every request takes and gives back blocks of the same few sizes. An allocator that splits and joins blocks takes some 150
//! instructions to find one and as many to take it back; here it is ten to twenty. What is larger, or more than is kept of a size,
//! goes to such an allocator, the heap. It joins what is given back, so that blocks of other sizes can be made of it.
//!
//! The non-obvious rule: a block is one of its class for life, so one that is freed fits the next of its class. The class
//! follows from the size alone, which Rust names at both ends.

#![expect(unsafe_code, reason = "an allocator hands out raw memory")]

use core::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    ptr,
};

use dlmalloc::GlobalDlmalloc;

/// The steps of the sizes of small blocks, and the largest. Some live long, so little of them may stay unused.
const SMALL_STEP: usize = 16;
const MAX_SMALL: usize = 512;

/// The same of large blocks, which mostly live for one request.
const LARGE_STEP: usize = 512;
const MAX_LARGE: usize = 4096;

const SMALL_CLASSES: usize = MAX_SMALL / SMALL_STEP;
const CLASSES: usize = SMALL_CLASSES + MAX_LARGE / LARGE_STEP - 1;

/// How every block is aligned. What needs more goes to the heap.
const ALIGN: usize = 8;

/// Blocks of one class that are kept, at the most: less than 1 MiB of all classes.
const MAX_KEPT: usize = 32;

/// Where blocks come from.
static HEAP: GlobalDlmalloc = GlobalDlmalloc;

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
        if let Some((_, class)) = self.class(layout) {
            let block = class.first.get();
            if !block.is_null() {
                // SAFETY: a free block begins with an address, and is aligned for one.
                class.first.set(unsafe { block.cast::<*mut u8>().read() });
                class.kept.update(|kept| kept - 1);
                return block;
            }
        }
        // SAFETY: the caller's promises are those of this call.
        unsafe { self.make(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some((_, class)) = self.class(layout)
            && class.kept.get() < MAX_KEPT
        {
            // SAFETY: nobody uses the block any more; it is aligned for an address, and no class is too small for one.
            unsafe { block.cast::<*mut u8>().write(class.first.get()) };
            class.first.set(block);
            class.kept.update(|kept| kept + 1);
            return;
        }
        // SAFETY: the caller's promises are those of this call.
        unsafe { self.give_back(block, layout) }
    }
}

impl Recycler {
    /// Returns the class of a block. `None`: such blocks are not kept.
    #[inline]
    fn class(&self, layout: Layout) -> Option<(usize, &Class)> {
        // Rust asks for no empty block.
        let rest = layout.size().wrapping_sub(1);
        let at = if rest < MAX_SMALL {
            rest / SMALL_STEP
        } else {
            SMALL_CLASSES - 1 + rest / LARGE_STEP
        };
        if layout.align() > ALIGN {
            return None;
        }
        // Behind the last class there are none.
        Some((at, self.0.get(at)?))
    }

    /// Takes a block from the heap. Out of the way of those that are kept: a call of it needs room on the stack.
    ///
    /// # Safety
    ///
    /// As of [`GlobalAlloc::alloc`].
    #[cold]
    #[inline(never)]
    unsafe fn make(&self, layout: Layout) -> *mut u8 {
        // SAFETY: no class is of size 0, and of what has none the caller promises it.
        unsafe { HEAP.alloc(self.made(layout)) }
    }

    /// Gives a block back to the heap.
    ///
    /// # Safety
    ///
    /// As of [`GlobalAlloc::dealloc`].
    #[cold]
    #[inline(never)]
    unsafe fn give_back(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `make` made the block so.
        unsafe { HEAP.dealloc(block, self.made(layout)) }
    }

    /// Returns how a block is made that is asked for like this.
    fn made(&self, layout: Layout) -> Layout {
        self.class(layout).map_or(layout, |(at, _)| whole(at))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, ALIGN).unwrap()
    }

    #[test]
    fn every_block_is_as_large_as_it_is_asked_for() {
        let mut last = None;
        for size in 1..=MAX_LARGE {
            let (class, _) = ALLOCATOR.class(layout(size)).unwrap();
            let block = whole(class).size();
            let step = if size <= MAX_SMALL {
                SMALL_STEP
            } else {
                LARGE_STEP
            };
            assert!((size..size + step).contains(&block), "{size} in {block}");
            assert!(last <= Some(class), "{size}");
            last = Some(class);
        }
        assert_eq!(last, Some(CLASSES - 1));
        for other in [layout(0), layout(MAX_LARGE + 1), layout(1 << 30)] {
            assert!(ALLOCATOR.class(other).is_none(), "{other:?}");
        }
        let aligned = Layout::from_size_align(64, 2 * ALIGN).unwrap();
        assert!(ALLOCATOR.class(aligned).is_none());
    }

    #[test]
    fn a_freed_block_is_the_next_one_and_no_two_in_use_are_the_same() {
        let recycler = Recycler([const { Class::new() }; CLASSES]);
        for size in [1, 16, 17, 512, 513, MAX_LARGE] {
            let blocks = [(); 2 * MAX_KEPT].map(|()| {
                // SAFETY: the size is not zero.
                let block = unsafe { recycler.alloc(layout(size)) };
                // SAFETY: the block is as large.
                unsafe { block.write_bytes(0xaa, size) };
                block
            });
            let mut distinct = blocks.to_vec();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), blocks.len());
            for block in blocks {
                // SAFETY: it is freed once, as it was made.
                unsafe { recycler.dealloc(block, layout(size)) };
            }
            let (_, class) = recycler.class(layout(size)).unwrap();
            assert_eq!(class.kept.get(), MAX_KEPT);
            for (left, block) in (0..MAX_KEPT).zip(&blocks).rev() {
                // SAFETY: the size is not zero.
                assert_eq!(unsafe { recycler.alloc(layout(size)) }, *block);
                assert_eq!(class.kept.get(), left);
            }
            assert!(class.first.get().is_null());
        }
    }
}
