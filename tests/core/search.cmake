espalier_test(test_search SOURCES core/test_search.cpp LIBS espalier::search)
target_link_libraries(test_search PRIVATE espalier::allocate)
