/* For libraries that every driver is linked with and this one takes nothing from. */
static int nothing;
