//! One target URI in all its forms.
