"""Pull-through: blobs and index entries missing here come from upstream caches, in order."""
