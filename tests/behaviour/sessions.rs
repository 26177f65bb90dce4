//! Users, sessions and cookies, with real session layers.
