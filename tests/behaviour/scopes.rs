//! Tags and limits that code deep inside a handler adds.
