//! A hit on a solid extent allocates nothing: counted by the allocator of this process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

mod solid;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[allow(unsafe_code, reason = "an allocator that counts is the only way to see allocations")]
// SAFETY: every call is handed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps GlobalAlloc's contract, which is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above, so from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

#[test]
fn a_hit_on_a_solid_extent_allocates_nothing() {
    let mut hits = solid::Hits::new();
    hits.read(3);
    hits.write(3);
    let before = allocations();
    for extent in 0..1000 {
        hits.read(extent % solid::EXTENTS);
        hits.write(extent % solid::EXTENTS);
    }
    assert_eq!(allocations() - before, 0);
    drop(std::hint::black_box(vec![0_u8; 100]));
    assert!(allocations() > before, "the allocator counts");
}
