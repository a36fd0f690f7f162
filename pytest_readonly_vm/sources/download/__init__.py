"""The transfer of images from web servers and registries."""
