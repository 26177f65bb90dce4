//! Fragments of a page, and the page.
