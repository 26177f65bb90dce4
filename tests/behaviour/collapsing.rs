//! Requests for one key that share a call: leaders, followers, hung and failed calls.
