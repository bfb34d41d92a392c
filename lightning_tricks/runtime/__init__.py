"""First floor: what a Lightning run offers a trick. Imports ``measure``, ``errors``, torch and Lightning."""
