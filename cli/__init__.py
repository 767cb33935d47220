"""SAY: the one command `longtail`; reads settings, hands each package its own, prints."""
