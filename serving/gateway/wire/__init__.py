"""Between the wire and the domain; nothing below it knows our proto."""
