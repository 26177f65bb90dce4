//! Range requests.
