"""IMAGINE: a made-up world whose truth is known, and the real gateway at work in it."""
