#include "status_bar.h"
