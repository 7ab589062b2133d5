"""Things that change appearance: image and video editors and the Instruct 4D-to-4D loop."""
