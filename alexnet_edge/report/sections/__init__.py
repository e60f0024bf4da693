"""The parts of the page, one file each; a part without results is left out."""
